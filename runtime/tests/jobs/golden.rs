//! Queries over the benchmark's events give the rows that Flink 2.3 gives.
//!
//! `nexmark/` holds 25,000 events, queries, and Flink's rows (first line: columns and types; then a JSON array a row). Each
//! query runs at parallelism 1, 2 and 5, over one file cut by bytes and over seven files with interleaved times.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::harness::{Place, text};

const SETUP: &str = include_str!("../nexmark/setup.sql");

fn data(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nexmark").join(path);
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// Writes the events as `files` files below `events/`; more than one: line n goes to file n mod `files`.
fn write_events(place: &Path, files: usize) {
    let text = data("events.jsonl.gz");
    let folder = place.join("events");
    fs::create_dir(&folder).unwrap();
    for file in 0..files {
        let lines: String = text.split_inclusive('\n').skip(file).step_by(files).collect();
        fs::write(folder.join(format!("part-{file}.jsonl")), lines).unwrap();
    }
}

/// Columns of a query with the types that the sink declares.
fn columns(expected: &str) -> Vec<(String, String)> {
    let header: Vec<String> = serde_json::from_str(expected.lines().next().unwrap()).unwrap();
    let column = |text: &String| {
        let (name, data_type) = text.split_once(' ').unwrap();
        let data_type = data_type.replace(" NOT NULL", "").replace(" *ROWTIME*", "");
        (name.to_owned(), if data_type.starts_with("VARCHAR") { "STRING".to_owned() } else { data_type })
    };
    header.iter().map(column).collect()
}

/// Flink's rows, as our sink writes rows.
fn expected_rows(expected: &str, columns: &[(String, String)]) -> Vec<String> {
    let row = |line: &str| {
        let values: Vec<Value> = serde_json::from_str(line).unwrap();
        let fields = values.iter().zip(columns).map(|(value, (name, data_type))| {
            let written = match value {
                Value::String(text) if data_type.starts_with("DECIMAL") => text.clone(),
                Value::String(time) if data_type.starts_with("TIMESTAMP") => {
                    format!("\"{}\"", time.trim_end_matches('0').trim_end_matches('.'))
                }
                other => other.to_string(),
            };
            format!("\"{name}\":{written}")
        });
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    };
    let mut rows: Vec<String> = expected.lines().skip(1).map(row).collect();
    rows.sort();
    rows
}

fn check(query: &str) {
    let expected = data(&format!("expected/{query}.jsonl.gz"));
    let columns = columns(&expected);
    let rows = expected_rows(&expected, &columns);
    assert!(!rows.is_empty());
    let select =
        fs::read_to_string(format!("{}/tests/nexmark/queries/{query}.sql", env!("CARGO_MANIFEST_DIR")))
            .unwrap();
    let declared: Vec<String> =
        columns.iter().map(|(name, data_type)| format!("`{name}` {data_type}")).collect();
    let setup = SETUP.replace("events.jsonl", "events");
    let sql = format!(
        "{setup}\nCREATE TABLE result ({}) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');\nINSERT INTO result\n{select}",
        declared.join(", ")
    );
    for files in [1, 7] {
        for parallelism in [1, 2, 5] {
            let place = Place::new(parallelism, &sql);
            write_events(place.path(), files);

            let output = place.run(&[]);

            let case = format!("{query}, parallelism {parallelism}, {files} files");
            assert!(output.status.success(), "{case}: {}", text(&output));
            let found = place.rows("result");
            let missing: Vec<_> =
                rows.iter().filter(|row| found.binary_search(row).is_err()).take(3).collect();
            assert_eq!(found.len(), rows.len(), "{case}: first missing {missing:#?}");
            assert!(found == rows, "{case}: first missing {missing:#?}");
        }
    }
}

macro_rules! golden {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*
    };
}

golden! { q00 q01 q02 q10 q14 q21 q22 s31_tumble s32_hop }

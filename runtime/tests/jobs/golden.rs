//! Queries over the benchmark's events give the rows that Flink 2.3 gives.
//!
//! `nexmark/` holds 25,000 events, queries, and Flink's rows (first line: columns and types; then a JSON array a row). Each
//! query runs at parallelism 1, 2 and 5, over one file cut by bytes and over seven files with interleaved times.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use millrace::checkpoint::records::{self, Manifest};
use millrace_sql::plan::OperatorKind;
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
                Value::Array(fields) if data_type.starts_with("ROW") => {
                    let names = data_type.split('`').skip(1).step_by(2);
                    let fields = names.zip(fields).map(|(name, value)| format!("\"{name}\":{value}"));
                    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
                }
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

/// A query's job, and Flink's rows.
fn case(query: &str) -> (String, Vec<String>) {
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
    let (views, select) =
        select.trim_end().trim_end_matches(';').rsplit_once(';').unwrap_or(("", select.as_str()));
    let views = if views.is_empty() { String::new() } else { format!("{views};\n") };
    let sql = format!(
        "{setup}\n{views}CREATE TABLE result ({}) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');\nINSERT INTO result\n{select}",
        declared.join(", ")
    );
    (sql, rows)
}

fn assert_rows(place: &Place, rows: &[String], case: &str) {
    let found = place.rows("result");
    let missing: Vec<_> = rows.iter().filter(|row| found.binary_search(row).is_err()).take(3).collect();
    assert_eq!(found.len(), rows.len(), "{case}: first missing {missing:#?}");
    assert!(found == rows, "{case}: first missing {missing:#?}");
}

fn check(query: &str) {
    let (sql, rows) = case(query);
    for files in [1, 7] {
        for parallelism in [1, 2, 5] {
            let place = Place::new(parallelism, &sql);
            write_events(place.path(), files);

            let output = place.run(&[]);

            let case = format!("{query}, parallelism {parallelism}, {files} files");
            assert!(output.status.success(), "{case}: {}", text(&output));
            assert_rows(&place, &rows, &case);
            assert_all_subtasks_had_rows(&place, parallelism, &case);
        }
    }
}

/// The newest checkpoint counts rows of every subtask of sources and sinks. Keyed operators are chained to their sink.
fn assert_all_subtasks_had_rows(place: &Place, parallelism: u32, case: &str) {
    let manifests = place.path().join(".millrace/default/job/manifests");
    let newest = fs::read_dir(manifests).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let manifest: Manifest = records::decode(&fs::read(newest).unwrap()).unwrap();
    let plan = manifest.plan.as_ref().unwrap();
    let operators = &plan.operators;
    // Without a key all rows are of one subtask.
    if plan.edges.iter().any(|edge| edge.hash.as_ref().is_some_and(|hash| hash.columns.is_empty())) {
        return;
    }
    let ends = operators
        .iter()
        .filter(|operator| matches!(operator.kind, Some(OperatorKind::Source(_) | OperatorKind::Sink(_))));
    let mut checked = 0;
    for operator in ends {
        let states = manifest.subtasks.iter().filter(|state| state.operator == operator.id);
        let rows: Vec<u64> = states.map(|state| state.rows).collect();
        assert_eq!(rows.len(), parallelism as usize, "{case}: {}", operator.id);
        assert!(
            rows.iter().all(|rows| *rows > 0),
            "{case}: {} has subtasks without rows: {rows:?}",
            operator.id
        );
        checked += 1;
    }
    assert!(checked >= 2, "{case}: a job has a source and a sink");
}

/// All state is on the disk but for what a batch needs of it, and after a crash rows flow before it is there.
const LARGE_STATE: [(&str, &str); 2] = [("MILLRACE_STATE_MEMORY", "0"), ("MILLRACE_STATE_LAZY_FROM", "1")];

/// What the log says then.
const ON_DISK: &str = "state does not fit into memory";
const IS_LAZY: &str = "is_lazy=true";

/// Small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's multiplier and increment for 64 bits; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Events stay within this many lines of their place: 3.2 s of event time, and the watermark waits for 4.
const SHUFFLED_LINES: usize = 800;

/// Writes the events in one file, each within so many lines of its place.
fn write_shuffled(place: &Place, lines_around: usize, seed: &str) {
    let text_of_events = data("events.jsonl.gz");
    let mut lines: Vec<&str> = text_of_events.split_inclusive('\n').collect();
    let mut random = Random(seed.bytes().map(u64::from).sum());
    for block in lines.chunks_mut(lines_around) {
        for last in (1..block.len()).rev() {
            block.swap(last, random.below(last as u64 + 1) as usize);
        }
    }
    fs::create_dir(place.path().join("events")).unwrap();
    fs::write(place.path().join("events/part-0.jsonl"), lines.concat()).unwrap();
}

fn check_shuffled(query: &str) {
    let (sql, rows) = case(query);
    let place = Place::new(2, &sql);
    write_shuffled(&place, SHUFFLED_LINES, query);

    let output = place.run(&[]);

    assert!(output.status.success(), "{query}: {}", text(&output));
    assert_rows(&place, &rows, &format!("{query}, shuffled"));
}

/// Counts of rows by these columns, of the windows that hold all of their rows.
fn counted(
    rows: &[String],
    count: &str,
    by: &[&str],
    is_whole: fn(&Value) -> bool,
) -> BTreeMap<Vec<String>, u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        let row: Value = serde_json::from_str(row).unwrap();
        if is_whole(&row) {
            let key = by.iter().map(|column| row[*column].to_string()).collect();
            *counts.entry(key).or_insert(0) += row[count].as_u64().unwrap();
        }
    }
    counts
}

/// Events that come after their windows have fired are missing from exactly these windows, and counted.
fn late_rows_are_missing_and_counted(query: &str, count: &str, by: &[&str], is_whole: fn(&Value) -> bool) {
    let (sql, rows) = case(query);
    let expected = counted(&rows, count, by, is_whole);
    for (parallelism, restarts) in [(1, false), (2, false), (2, true)] {
        let place = Place::new(parallelism, &sql);
        write_shuffled(&place, 8 * SHUFFLED_LINES, "beyond");
        let case = format!("{query}, parallelism {parallelism}, restarts: {restarts}");
        if restarts {
            place.edit_job("'format' = 'json'", "'format' = 'json', 'scan.rows-per-second' = '12500'");
            place.edit_job("interval: 300ms", "interval: 100ms");
            let mut run = place.start_crashing("MILLRACE_TEST_CRASH_AFTER_ROWS", "11000");
            assert!(!run.wait().unwrap().success(), "{case}: {}", place.log());
        }
        let output = place.run(&[]);
        assert!(output.status.success(), "{case}: {}", text(&output));

        let found = counted(&place.rows("result"), count, by, is_whole);
        assert!(found.iter().all(|(window, n)| expected.get(window).is_some_and(|all| n <= all)), "{case}");
        let missing = expected.values().sum::<u64>() - found.values().sum::<u64>();
        // Of the halves of a file that are read side by side the slower one holds the watermark back.
        assert!(missing > 20 || parallelism > 1, "{case}: {missing}");
        let told = match missing {
            0 => !text(&output).contains("late rows dropped"),
            _ => text(&output).contains(&format!("{missing} late rows dropped")),
        };
        assert!(told, "{case}: {missing}: {}", text(&output));
        if restarts {
            assert!(figures(&text(&output), "restored_epoch")[0] > 0, "{case}: {}", text(&output));
        }
    }
}

#[test]
fn rows_beyond_the_watermarks_bound_are_late_and_counted_once_each() {
    late_rows_are_missing_and_counted("s31_tumble", "n", &["auction", "window_start"], |_| true);
}

/// What is missing may part a session in two, so that only their sums can be compared.
#[test]
fn rows_that_come_too_late_for_their_sessions_are_counted_once_each() {
    late_rows_are_missing_and_counted("s02_session_tvf", "n", &["bidder"], |_| true);
}

/// A row counts as late when the last of its windows has fired, which is the one that has all.
#[test]
fn rows_that_come_too_late_for_all_of_their_windows_are_counted_once_each() {
    late_rows_are_missing_and_counted("s01_cumulate", "n", &["channel", "window_start"], |row| {
        let second = |column: &str| {
            let time = row[column].as_str().unwrap();
            chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc().timestamp()
        };
        second("window_end") - second("window_start") == 20
    });
}

/// All columns of a row as one text: its checksum tells rows apart that have swapped values.
fn whole_row(columns: &str) -> String {
    let names = columns.split('`').skip(1).step_by(2);
    let text = |name| format!("COALESCE(CAST(`{name}` AS STRING), 'no value')");
    format!("CONCAT_WS('|', {}) AS whole_row", names.map(text).collect::<Vec<_>>().join(", "))
}

/// Queries whose rows change: what is left of them in the end has the checksums of Flink's rows, of each column and of whole rows.
/// They run straight and shuffled, and crash at seeded rows and go on with another parallelism each time.
fn check_running(query: &str) {
    let (sql, rows) = case(query);
    check_changes(query, &sql, &rows);
}

fn check_changes(query: &str, sql: &str, rows: &[String]) {
    let (columns, files) = (sql.split("CREATE TABLE result (").nth(1).unwrap(), "'format' = 'json'");
    let columns = columns.split(") WITH").next().unwrap();
    let read = Place::new(
        1,
        &format!(
            "CREATE TABLE flinks ({columns}) WITH ('connector' = 'filesystem', 'path' = 'flinks.jsonl', {files});
             CREATE TABLE nothing ({columns}, whole_row STRING) WITH ('connector' = 'blackhole');
             INSERT INTO nothing SELECT *, {} FROM flinks;",
            whole_row(columns)
        ),
    );
    fs::write(read.path().join("flinks.jsonl"), rows.join("\n")).unwrap();
    let output = read.run(&[]);
    let expected = checksums(&text(&output), "nothing");
    assert_eq!(expected.len(), columns.matches('`').count() / 2 + 1, "{query}: {}", text(&output));

    let whole = whole_row(columns);
    let sql = sql.replace(
        ") WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');",
        ", whole_row STRING) WITH ('connector' = 'blackhole');",
    );
    let (declarations, select) = sql.split_once("INSERT INTO result\n").unwrap();
    let select = select.trim_end().trim_end_matches(';');
    let sql = format!(
        "{declarations}CREATE VIEW answer AS {select};\nINSERT INTO result SELECT *, {whole} FROM answer;"
    );
    for (files, parallelism) in [(0, 2), (1, 1), (7, 2), (7, 5)] {
        let place = Place::new(parallelism, &sql);
        match files {
            0 => write_shuffled(&place, SHUFFLED_LINES, query),
            _ => write_events(place.path(), files),
        }
        let output = place.run(&[]);
        let found = checksums(&text(&output), "result");
        assert_eq!(found, expected, "{query}, parallelism {parallelism}: {}", text(&output));
    }

    let sql = sql.replacen("'format' = 'json'", "'format' = 'json', 'scan.rows-per-second' = '12500'", 1);
    let place = Place::new(1, &sql).with_env(&LARGE_STATE);
    write_events(place.path(), 7);
    let mut random = Random(query.bytes().map(u64::from).sum());
    let mut reached = 0;
    for (turn, parallelism) in [2, 5, 1].into_iter().enumerate() {
        place.set_job(parallelism, &sql);
        place.edit_job("interval: 300ms", "interval: 100ms");
        let until = 7_000 + random.below(3_000);
        let mut run = match turn {
            2 => place.start(&[]),
            _ => place.start_crashing("MILLRACE_TEST_CRASH_AFTER_ROWS", &until.to_string()),
        };
        assert_eq!(run.wait().unwrap().success(), turn == 2, "{query}: {}", place.log());
        let restored_rows = figures(&place.log(), "restored_rows_in")[0];
        assert_eq!(figures(&place.log(), "restored_epoch")[0] > 0, turn > 0, "{query}: {}", place.log());
        assert!(turn == 0 || restored_rows < reached, "{query}: no row was read again: {}", place.log());
        reached = restored_rows + until;
        assert!(place.log().contains(ON_DISK), "{query}: {}", place.log());
        assert_eq!(place.log().contains(IS_LAZY), turn > 0, "{query}: {}", place.log());
    }
    assert_eq!(checksums(&place.out(), "result"), expected, "{query}, with crashes: {}", place.log());
}

/// The least and the greatest of counts and prices that change with most bids, over so many auctions that their values are no small
/// list: counted here once more.
#[test]
fn the_least_and_the_greatest_of_values_that_change() {
    let mut auctions: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for line in data("events.jsonl.gz").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["event_type"] == 2 {
            let of_auction = auctions.entry(event["bid"]["auction"].as_i64().unwrap()).or_default();
            of_auction.push(event["bid"]["price"].as_i64().unwrap());
        }
    }
    let of_part = |part: i64| {
        let of_part = auctions.iter().filter(|(auction, _)| *auction % 3 == part);
        let of_part: Vec<(i64, i64)> =
            of_part.map(|(_, prices)| (prices.len() as i64, prices.iter().sum())).collect();
        let counts = || of_part.iter().map(|(count, _)| *count);
        let totals = || of_part.iter().map(|(_, total)| *total);
        assert!(of_part.len() > 100, "{}", of_part.len());
        format!(
            r#"{{"part":{part},"least":{},"most":{},"cheap":{},"dear":{},"rare":{}}}"#,
            counts().min().unwrap(),
            counts().max().unwrap(),
            totals().min().unwrap(),
            totals().max().unwrap(),
            of_part.iter().filter(|(count, _)| *count < 5).map(|(_, total)| *total).max().unwrap()
        )
    };
    let rows: Vec<String> = (0..3).map(of_part).collect();
    let setup = SETUP.replace("events.jsonl", "events");
    let sql = format!(
        "{setup}\nCREATE TABLE result (`part` BIGINT, `least` BIGINT, `most` BIGINT, `cheap` BIGINT, `dear` BIGINT, `rare` BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
INSERT INTO result
SELECT part, MIN(n) AS least, MAX(n) AS most, MIN(total) AS cheap, MAX(total) AS dear, MAX(total) FILTER (WHERE n < 5) AS rare
FROM (SELECT MOD(auction, 3) AS part, COUNT(*) AS n, SUM(price) AS total FROM bid GROUP BY auction, MOD(auction, 3)) GROUP BY part"
    );

    check_changes("values that change", &sql, &rows);
}

/// The checksums of a table's columns that a job has printed.
fn checksums(printed: &str, table: &str) -> Vec<String> {
    let sign = format!("checksum of {table}.");
    printed.lines().filter_map(|line| Some(line.split_once(&sign)?.1.to_owned())).collect()
}

/// A number that a log gives after a name, each time.
fn figures(log: &str, name: &str) -> Vec<u64> {
    let name = format!("{name}=");
    log.split(&name)
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap())
        .collect()
}

/// Crashes twice at seeded rows, and goes on each time: over one file as it was, over several with another parallelism.
fn check_with_crashes(query: &str) {
    let (sql, rows) = case(query);
    let sql = sql.replacen("'format' = 'json'", "'format' = 'json', 'scan.rows-per-second' = '12500'", 1);
    for (files, parallelism) in [(1, 1), (1, 2), (1, 5), (7, 1), (7, 2), (7, 5)] {
        let case = format!("{query} with crashes, parallelism {parallelism}, {files} files");
        let mut place = Place::new(parallelism, &sql);
        if files == 7 {
            place = place.with_env(&LARGE_STATE);
        }
        write_events(place.path(), files);
        // It ends with what the case is named after.
        let parallelisms = match (files, parallelism) {
            (1, same) => [same; 3],
            (_, 1) => [2, 5, 1],
            (_, 2) => [5, 1, 2],
            (_, _) => [1, 2, 5],
        };
        let mut random = Random(query.bytes().map(u64::from).sum::<u64>() + u64::from(parallelism));
        let (mut checkpoints, mut reached, mut is_on_disk, mut is_lazy) = (0, 0, false, false);
        for (crash, parallelism) in parallelisms.into_iter().enumerate() {
            place.set_job(parallelism, &sql);
            place.edit_job("interval: 300ms", "interval: 100ms");
            let rows_until_crash = 7_000 + random.below(3_000);
            let crashes = crash < 2;
            let mut run = match crashes {
                true => place.start_crashing("MILLRACE_TEST_CRASH_AFTER_ROWS", &rows_until_crash.to_string()),
                false => place.start(&[]),
            };
            let ended = run.wait().unwrap();
            let log = place.log();
            is_on_disk |= log.contains(ON_DISK);
            is_lazy |= log.contains(IS_LAZY);
            assert_eq!(ended.success(), !crashes, "{case}: {log}");
            let (restored_epoch, restored_rows) =
                (figures(&log, "restored_epoch")[0], figures(&log, "restored_rows_in")[0]);
            if crash > 0 {
                assert!(restored_epoch > 0 && restored_rows > 0, "{case}: nothing was restored: {log}");
                assert!(restored_rows < reached, "{case}: no row was read again: {log}");
            }
            // It crashes with the batch that holds the row, so that at least as many rows were read.
            reached = restored_rows + rows_until_crash;
            checkpoints += figures(&log, "checkpoint complete epoch").len();
        }
        let plan = millrace_sql::compile(&sql).unwrap();
        let has_state = plan.operators.iter().any(|operator| {
            matches!(
                operator.kind,
                Some(
                    OperatorKind::WindowAggregate(_)
                        | OperatorKind::SessionAggregate(_)
                        | OperatorKind::GroupAggregate(_)
                        | OperatorKind::ChangelogNormalize(_)
                )
            )
        });
        let is_large = files == 7 && has_state;
        assert_eq!((is_on_disk, is_lazy), (is_large, is_large), "{case}");
        assert!(checkpoints >= 5, "{case}: only {checkpoints} checkpoints");
        assert_rows(&place, &rows, &case);
        assert_all_subtasks_had_rows(&place, parallelism, &case);
    }
}

macro_rules! golden {
    ($($name:ident)*) => {
        $(mod $name {
            #[test]
            fn straight() {
                super::check(stringify!($name));
            }

            #[test]
            fn shuffled_within_the_watermarks_bound() {
                super::check_shuffled(stringify!($name));
            }

            #[test]
            fn with_crashes() {
                super::check_with_crashes(stringify!($name));
            }
        })*
    };
}

macro_rules! running {
    ($($name:ident)*) => {
        $(mod $name {
            #[test]
            fn straight_and_with_crashes() {
                super::check_running(stringify!($name));
            }
        })*
    };
}

running! { q15 q16 q17 s07_having s20_distinct s21_agg_zoo }

golden! {
    q00 q01 q02 q10 q11 q14 q21 q22 s01_cumulate s02_session_tvf s03_hop_offset s04_window_over_window s17_union s22_strings s23_numbers s24_times s25_nested s31_tumble s32_hop
}

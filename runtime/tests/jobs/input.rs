//! Wrong input: exit code, what is wrong, and the cure. Where it makes sense the cure is applied.

use std::fs;

use super::harness::{Place, text};

const SQL: &str = "
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'numbers', 'format' = 'json');
CREATE TABLE result (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
INSERT INTO result SELECT n FROM numbers WHERE n > 1;";

fn refused(place: &Place, code: i32, parts: &[&str]) {
    let output = place.run(&[]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

fn write_numbers(place: &Place, lines: &str) {
    fs::create_dir_all(place.path().join("numbers")).unwrap();
    fs::write(place.path().join("numbers/a.jsonl"), lines).unwrap();
}

#[test]
fn a_mistake_in_sql_is_shown_with_its_place() {
    let place = Place::new(1, &SQL.replace("n > 1", "m > 1"));

    refused(&place, 1, &["job.yaml: spec.pipeline.sql", "line 4, column 48: there is no column 'm'", "^"]);
}

#[test]
fn wrong_options_are_all_shown_with_their_places() {
    let sql = SQL.replace("'format' = 'json');\nCREATE", "'format' = 'xml');\nCREATE");
    let place = Place::new(1, &sql.replace("'path' = 'result',", "'pth' = 'result',"));

    refused(
        &place,
        1,
        &[
            "line 2, column 87: table 'numbers': the option 'format' = 'xml' is not supported",
            "hint: use 'json'",
            "line 3, column 14: table 'result': the option 'path' is missing",
            "hint: add 'path' = 's3://bucket/folder'",
            "line 3, column 66: table 'result': the option 'pth' is not known here",
            "hint: did you mean 'path'?",
        ],
    );
}

#[test]
fn a_missing_file_is_named_and_the_job_runs_once_it_is_there() {
    let place = Place::new(1, SQL);
    let manifest = fs::read_to_string(place.path().join("job.yaml")).unwrap();
    fs::write(place.path().join("job.yaml"), manifest.replace("spec:", "spec:\n  restart: {strategy: None}"))
        .unwrap();
    refused(&place, 3, &["failed to read 'numbers'", "No such file or directory"]);

    write_numbers(&place, "{\"n\":1}\n{\"n\":2}\n");

    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":2}"]);
}

#[test]
fn poison_records_are_left_out_if_the_table_says_so() {
    let place = Place::new(
        1,
        &SQL.replace("numbers', 'format'", "numbers', 'json.ignore-parse-errors' = 'true', 'format'"),
    );
    write_numbers(&place, "{\"n\":3}\n{\"n\":oops}\n\nnothing\n{\"n\":4}{\"n\":5}\n{\"n\":6}\n");

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":3}", "{\"n\":6}"]);
}

#[test]
fn a_poison_record_is_named_and_the_job_runs_once_it_is_mended() {
    let place = Place::new(1, SQL);
    write_numbers(&place, "{\"n\":3}\n{\"n\":oops}\n");
    refused(
        &place,
        3,
        &[
            "numbers/a.jsonl' has a line at byte 8 that is not a row of the table",
            "{\"n\":oops}",
            "'json.ignore-parse-errors' = 'true'",
        ],
    );
    assert!(place.rows("result").is_empty());

    write_numbers(&place, "{\"n\":3}\n{\"n\":4444}\n");

    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":3}", "{\"n\":4444}"]);
}

#[test]
fn a_damaged_segment_is_named() {
    let windowed = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts) WITH ('connector' = 'nexmark', 'rows-per-second' = '20000');
CREATE TABLE result (auction BIGINT, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
INSERT INTO result SELECT bid.auction, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR))
  GROUP BY bid.auction, window_start, window_end;";
    let place = Place::new(1, windowed);
    let mut job = place.start(&[]);
    super::harness::wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    job.kill().unwrap();
    job.wait().unwrap();
    let segments = place.path().join(".millrace/default/job/segments");
    for segment in fs::read_dir(segments).unwrap() {
        let path = segment.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }

    refused(&place, 3, &["segments/", "cut short"]);
}

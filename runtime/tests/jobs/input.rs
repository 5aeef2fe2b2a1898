//! Wrong input: exit code, what is wrong, and the cure. Where it makes sense the cure is applied.

use std::fs;
use std::path::Path;

use super::harness::{Place, signal, text};

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

/// Runs a job whose mistake was corrected.
fn runs(place: &Place) {
    write_numbers(place, "{\"n\":1}\n{\"n\":2}\n");
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":2}"]);
}

#[test]
fn a_mistake_in_a_manifest_names_the_field_and_the_job_runs_once_it_is_corrected() {
    let place = Place::new(1, SQL);
    place.edit_job("parallelism: 1", "parallelism: 0");
    refused(&place, 1, &["job.yaml: spec.parallelism: 0 is not from 1 to 32768"]);
    place.edit_job("parallelism: 0", "paralelism: 1");
    refused(&place, 1, &["job.yaml: spec.paralelism: ", "parallelism"]);

    place.edit_job("paralelism: 1", "parallelism: 1");

    runs(&place);
}

#[test]
fn a_mistake_in_sql_is_shown_with_its_place_and_the_job_runs_once_it_is_corrected() {
    let place = Place::new(1, &SQL.replace("n > 1", "m > 1"));

    refused(&place, 1, &["job.yaml: spec.pipeline.sql", "line 4, column 48: there is no column 'm'", "^"]);

    place.set_job(1, SQL);
    runs(&place);
}

#[test]
fn validate_shows_all_mistakes_and_runs_nothing() {
    let place = Place::new(1, &SQL.replace("n > 1", "m > 1").replacen("'json'", "'xml'", 1));
    let wrong = place.verb("validate", &[]);
    let said = text(&wrong);
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    for part in [
        "line 2, column 87: table 'numbers'",
        "hint: use 'json'",
        "line 4, column 48: there is no column 'm'",
    ] {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }

    place.set_job(1, SQL);
    let right = place.verb("validate", &[]);

    assert_eq!((right.status.code(), text(&right).trim()), (Some(0), "job: valid, 3 operators"));
    assert!(!place.path().join(".millrace").exists());
}

#[test]
fn what_is_wrong_in_other_fields_and_in_the_sql_is_told_at_once() {
    let place = Place::new(1, &SQL.replace("n > 1", "m > 1"));
    place.edit_job("spec:", "spec:\n  checkpoints: {interval: 1s}\n  maxParallelism: many");

    let output = place.verb("validate", &[]);

    assert_eq!(output.status.code(), Some(1));
    for part in ["job.yaml: spec.checkpoints: ", "job.yaml: spec.maxParallelism: ", "there is no column 'm'"]
    {
        assert!(text(&output).contains(part), "'{part}' is not in: {}", text(&output));
    }
}

#[test]
fn an_address_that_cannot_be_served_at_is_named() {
    let place = Place::new(1, SQL);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let output = place.run(&["--http", &address]);

    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for part in ["--http: failed to serve HTTP at ", address.as_str()] {
        assert!(text(&output).contains(part), "'{part}' is not in: {}", text(&output));
    }
}

#[test]
fn options_that_only_the_connector_understands_are_told_where_they_are() {
    let sql = "CREATE TABLE a (x INT) WITH ('connector' = 'datagen', 'fields.x.min' = 'few');
CREATE TABLE b (x INT) WITH ('connector' = 'filesystem', 'path' = 'b', 'format' = 'json', 'source.monitor-interval' = '0 s');
CREATE TABLE c (x INT) WITH ('connector' = 'blackhole');
INSERT INTO c SELECT x FROM a UNION ALL SELECT x FROM b;";
    let place = Place::new(1, sql);

    let output = place.verb("validate", &[]);

    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for part in [
        "line 1, column 55: table 'a': the option 'fields.x.min' = 'few'",
        "line 2, column 91: table 'b': the option 'source.monitor-interval' = '0 s'",
        "                                                      ^^^^^^^^^^^^^^",
    ] {
        assert!(text(&output).contains(part), "'{part}' is not in: {}", text(&output));
    }
}

#[test]
fn a_folder_for_state_that_is_not_there_is_told_before_the_job_begins() {
    let place = Place::new(1, SQL);

    let output = place.run(&["--state-folder", "nowhere"]);

    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for part in ["--state-folder: ", "'nowhere'", "name a folder that is there"] {
        assert!(text(&output).contains(part), "'{part}' is not in: {}", text(&output));
    }
    fs::create_dir(place.path().join("nowhere")).unwrap();
    write_numbers(&place, "{\"n\":2}\n");
    let output = place.run(&["--state-folder", "nowhere"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn exit_codes_tell_wrong_arguments_from_a_wrong_job() {
    let place = Place::new(1, SQL);

    assert_eq!(place.run(&["--workers", "many"]).status.code(), Some(2));
    assert_eq!(place.run(&["--no-such-option"]).status.code(), Some(2));
    // The pages that tell them tell of the same ones.
    let told = |page: &str| -> Vec<String> {
        let text = fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page))
            .unwrap();
        let of_codes =
            text.split("# Exit codes of `millrace`").nth(1).unwrap().split("\n## ").next().unwrap();
        let cells = of_codes.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        cells
            .filter(|cell| cell.starts_with(|first: char| first.is_ascii_digit()))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(told("README.md"), ["0", "1", "2", "3", "4", "130, 143"]);
    assert_eq!(told("docs/reference/exit-codes.md"), told("README.md"));
    fs::remove_file(place.path().join("job.yaml")).unwrap();
    refused(&place, 1, &["failed to read 'job.yaml'"]);
}

#[test]
fn a_job_that_another_process_takes_over_ends_with_its_own_exit_code() {
    let place = Place::new(
        1,
        "CREATE TABLE events (event_type INT) WITH ('connector' = 'nexmark', 'rows-per-second' = '1000');
         CREATE TABLE nothing (event_type INT) WITH ('connector' = 'blackhole');
         INSERT INTO nothing SELECT event_type FROM events;",
    );
    let mut first = place.start(&[]);
    super::harness::wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    // Its log replaces that of the first.
    let mut second = place.start(&[]);

    assert_eq!(first.wait().unwrap().code(), Some(4));
    super::harness::wait_until("the second leads", || place.log().contains("checkpoint complete"));
    assert!(second.try_wait().unwrap().is_none());
}

#[test]
fn places_of_a_kind_that_is_not_known_are_refused_before_anything_runs() {
    for (from, to, part) in [
        (
            "interval: 300ms",
            "location: gs://bucket/f",
            "spec.checkpoint.location: 'gs://bucket/f' is not supported; use s3://",
        ),
        (
            "spec:",
            "spec:\n  startFrom: abfss://a/b",
            "spec.startFrom: 'abfss://a/b' is not supported; use s3://",
        ),
    ] {
        let place = Place::new(1, SQL);
        place.edit_job(from, to);
        let output = place.verb("validate", &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    }
}

#[test]
fn a_job_and_its_sql_may_be_several_documents_of_a_file() {
    let place = Place::new(1, SQL);
    let indented: String = SQL.lines().map(|line| format!("    {line}\n")).collect();
    let job = "kind: StreamJob\napiVersion: millrace.dev/v1alpha1\nmetadata: {name: job}\n\
               spec: {pipeline: {sqlFrom: {configMapKeyRef: {name: queries, key: job.sql}}}}\n";
    let config = format!(
        "kind: ConfigMap\napiVersion: v1\nmetadata: {{name: queries}}\ndata:\n  job.sql: |\n{indented}"
    );
    let write = |text: &str| fs::write(place.path().join("job.yaml"), text).unwrap();
    write(job);
    refused(
        &place,
        1,
        &[
            "spec.pipeline.sqlFrom: there are no ConfigMaps outside of a cluster; put 'queries' into this file",
        ],
    );
    write(&format!("{config}---\n{}", job.replace("spec:", "sepc: {}\nspec:")));
    refused(&place, 1, &["sepc: is not known"]);
    write(&format!("{config}---\n{job}"));
    runs(&place);
}

#[test]
fn an_insert_names_its_columns_in_any_order_and_the_others_are_null() {
    let place = Place::new(
        1,
        "CREATE TABLE result (a BIGINT, b STRING, c BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
         INSERT INTO result (b, a) VALUES ('x', 1), ('y', 2);",
    );

    let output = place.run(&["--from", "latest"]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        place.rows("result"),
        ["{\"a\":1,\"b\":\"x\",\"c\":null}", "{\"a\":2,\"b\":\"y\",\"c\":null}"]
    );
    let summary = "2 rows in, 2 rows out, checkpoint ";
    assert!(text(&output).contains(summary), "{}", text(&output));
    for (columns, part) in [("(b, d)", "'d'"), ("(b, b)", "b"), ("(b)", "column")] {
        place.set_job(
            1,
            &format!(
                "CREATE TABLE result (a BIGINT, b STRING) WITH ('connector' = 'blackhole'); INSERT INTO result {columns} VALUES ('x', 'y');"
            ),
        );
        refused(&place, 1, &["line 1, column ", part]);
    }
}

#[test]
fn other_seeds_generate_other_events() {
    let rows = |seed: &str| {
        let place = Place::new(
            2,
            &format!(
                "CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT>)
                   WITH ('connector' = 'nexmark', 'events' = '2000', 'seed' = '{seed}');
                 CREATE TABLE result (auction BIGINT, price BIGINT)
                   WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
                 INSERT INTO result SELECT bid.auction, bid.price FROM events WHERE event_type = 2;"
            ),
        );
        let output = place.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        place.rows("result")
    };
    let (first, again, other) = (rows("1"), rows("1"), rows("2"));
    assert!(first == again);
    assert_eq!(first.len(), other.len(), "their kinds follow each other as ever");
    assert!(first != other);
}

#[test]
fn starting_over_reads_everything_again() {
    let place = Place::new(1, SQL);
    runs(&place);
    let again = place.run(&[]);
    assert!(text(&again).contains("--from none starts over"), "{}", text(&again));
    assert_eq!(place.rows("result").len(), 1);

    let output = place.run(&["--from", "none"]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":2}", "{\"n\":2}"]);
    assert!(
        text(&output).contains("the table 'result' writes into 'result', where files of earlier"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_job_that_has_finished_says_so_if_its_sql_was_edited_since() {
    let place = Place::new(1, SQL);
    runs(&place);
    place.edit_job("n > 1", "n > 0");

    refused(&place, 1, &["with other SQL: ", "--from none starts over"]);

    place.edit_job("n > 0", "n > 1");
    assert!(place.run(&[]).status.success());
}

#[test]
fn print_shows_every_row_after_the_name_of_its_table() {
    let place = Place::new(
        1,
        &SQL.replacen(
            "'connector' = 'filesystem', 'path' = 'result', 'format' = 'json'",
            "'connector' = 'print'",
            1,
        ),
    );
    write_numbers(&place, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");

    let output = place.run(&[]);

    let printed = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = printed.lines().filter(|line| line.contains("> ")).collect();
    assert_eq!(rows, ["result:1> +I[2]", "result:1> +I[3]"], "{printed}");
}

#[test]
fn the_state_of_a_clusters_job_is_refused_and_the_job_runs_at_a_place_of_its_own() {
    let place = Place::new(1, SQL);
    let state = place.path().join(".millrace/default/job");
    fs::create_dir_all(&state).unwrap();
    let record = millrace::checkpoint::records::JobRecord {
        uid: "0b9d7a51-2b0c-4b7e-9f4e-1c5f0a7d2e33".to_owned(),
        format: 1,
        max_parallelism: 1024,
        key_encoding: 1,
        name: "shop/totals".to_owned(),
    };
    fs::write(state.join("job.pb"), millrace::checkpoint::records::encode(&record)).unwrap();

    refused(
        &place,
        1,
        &["spec.checkpoint.location", "the job 'shop/totals' of a cluster", "another location"],
    );

    place.edit_job("  checkpoint:\n", "  checkpoint:\n    location: ./elsewhere\n");
    runs(&place);
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

    place.set_job(1, SQL);
    runs(&place);
}

#[test]
fn a_missing_file_is_named_and_the_running_job_goes_on_once_it_is_there() {
    let place = Place::new(1, SQL);
    let mut job = place.start(&[]);
    place.wait_until("the missing file and the cure are named", || {
        let log = place.log();
        log.contains("failed to read 'numbers'") && log.contains("put it there, or correct the option 'path'")
    });

    write_numbers(&place, "{\"n\":1}\n{\"n\":2}\n");

    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert_eq!(place.rows("result"), ["{\"n\":2}"]);
}

#[test]
fn without_a_restart_strategy_the_first_failure_ends_the_job() {
    let place = Place::new(1, SQL);
    place.edit_job("spec:", "spec:\n  restart: {strategy: None}");

    refused(
        &place,
        3,
        &["failed to read 'numbers'", "No such file or directory", "correct the option 'path'"],
    );

    runs(&place);
}

#[test]
fn files_that_come_later_are_read_once_through_kills() {
    let sql = SQL.replacen("'format' = 'json'", "'format' = 'json', 'source.monitor-interval' = '50 ms'", 1);
    let place = Place::new(2, &sql);
    let numbers = place.path().join("numbers");
    fs::create_dir(&numbers).unwrap();
    let expected = |until: u32| {
        let mut rows: Vec<String> = (2..until).map(|n| format!("{{\"n\":{n}}}")).collect();
        rows.sort();
        rows
    };
    // Hidden until it is whole.
    let come = |first: u32| {
        let lines: Vec<String> = (first..first + 3).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let hidden = numbers.join(format!(".{first}"));
        fs::write(&hidden, lines.concat()).unwrap();
        fs::rename(hidden, numbers.join(format!("{first}.jsonl"))).unwrap();
    };
    let there = |until: u32| {
        place.wait_until("all rows are there", || place.rows("result") == expected(until));
    };

    let mut job = place.start(&["--workers", "2"]);
    for first in [0, 3, 6, 9] {
        come(first);
    }
    there(12);
    job.kill().unwrap();
    job.wait().unwrap();
    come(12);
    let mut job = place.start(&[]);
    come(15);
    there(18);
    // A file that is gone was read.
    fs::remove_file(numbers.join("3.jsonl")).unwrap();
    come(18);
    there(21);
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", place.log());

    assert_eq!(place.rows("result"), expected(21));
}

#[test]
fn windows_over_watched_files_fire_when_the_files_are_read() {
    let place = Place::new(
        1,
        "CREATE TABLE numbers (n BIGINT, ts AS TO_TIMESTAMP_LTZ(n, 0), WATERMARK FOR ts AS ts)
           WITH ('connector' = 'filesystem', 'path' = 'numbers', 'format' = 'json', 'source.monitor-interval' = '50 ms');
         CREATE TABLE result (`start` TIMESTAMP_LTZ(3), n BIGINT)
           WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
         INSERT INTO result SELECT window_start, COUNT(*)
           FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end;",
    );
    fs::create_dir(place.path().join("numbers")).unwrap();
    for file in 0..5 {
        let lines: Vec<String> = (file * 3..file * 3 + 3).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        fs::write(place.path().join(format!("numbers/{file}.jsonl")), lines.concat()).unwrap();
    }

    let mut job = place.start(&[]);
    // The last row's own window stays open.
    place.wait_until("all other windows have fired", || place.rows("result").len() == 14);
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", place.log());

    assert!(place.rows("result").iter().all(|row| row.ends_with("\"n\":1}")), "{:?}", place.rows("result"));
}

#[test]
fn other_restart_strategies_give_up_after_so_many_failures() {
    for (strategy, restarts) in [
        ("strategy: FixedDelay, delay: 10ms, maxRestarts: 3", 3),
        ("strategy: FailureRate, delay: 10ms, maxFailures: 2, interval: 10m", 2),
        ("initialDelay: 10ms, backoffMultiplier: 1.5, jitter: 0, resetAfter: 10m, maxRestarts: 4", 4),
    ] {
        let place = Place::new(1, SQL);
        place.edit_job("spec:", &format!("spec:\n  restart: {{{strategy}}}"));

        let gave_up = format!("gave up after {restarts} restarts");
        refused(&place, 3, &[&gave_up, "failed to read 'numbers'"]);

        runs(&place);
    }
}

#[test]
fn a_secret_can_only_be_read_on_a_cluster_and_the_environment_stands_in_for_it() {
    let place = Place::new(1, SQL);
    place.edit_job("spec:", "spec:\n  storage: {credentials: {secretRef: {name: s3}}}");
    refused(&place, 1, &["spec.storage.credentials: the Secret 's3'", "set AWS_ACCESS_KEY_ID"]);

    let place = place.with_env(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);

    runs(&place);
}

#[test]
fn a_secret_that_the_sql_names_is_asked_for_by_its_variable() {
    let place = Place::new(1, SQL);
    let secrets =
        "pipeline:\n    secrets: [{name: kafka-password, secretKeyRef: {name: broker, key: password}}]";
    place.edit_job("pipeline:", secrets);
    refused(
        &place,
        1,
        &[
            "spec.pipeline.secrets: 'kafka-password' is a key of the Secret 'broker'",
            "here set MILLRACE_SECRET_KAFKA_PASSWORD",
        ],
    );

    let place = place.with_env(&[("MILLRACE_SECRET_KAFKA_PASSWORD", "p")]);

    runs(&place);
}

#[test]
fn input_without_rows_ends_like_any_other() {
    for sql in [
        SQL.to_owned(),
        SQL.replace("'connector' = 'filesystem', 'path' = 'numbers', 'format' = 'json'", "'connector' = 'datagen', 'number-of-rows' = '0'"),
        SQL.replace("SELECT n FROM numbers WHERE n > 1", "SELECT COUNT(*) FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end")
            .replace("(n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'numbers'", "(ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'filesystem', 'path' = 'numbers'"),
    ] {
        let place = Place::new(2, &sql);
        write_numbers(&place, "");

        let output = place.run(&["--workers", "2"]);

        assert!(output.status.success(), "{}", text(&output));
        assert!(place.files("result").is_empty(), "no empty files");
        let again = place.run(&[]);
        assert!(again.status.success() && text(&again).contains("finished at"), "{}", text(&again));
    }
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
fn a_null_in_a_column_that_has_none_is_a_poison_record() {
    let place = Place::new(1, &SQL.replace("numbers (n BIGINT)", "numbers (n BIGINT NOT NULL)"));
    for line in ["{\"n\":null}\n", "{}\n"] {
        write_numbers(&place, &format!("{{\"n\":3}}\n{line}"));
        refused(&place, 3, &["has a line at byte 8 that is not a row", line.trim(), "correct it"]);
        assert!(place.rows("result").is_empty());
    }

    write_numbers(&place, "{\"n\":3}\n{\"n\":4}\n");

    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":3}", "{\"n\":4}"]);
}

#[test]
fn missing_fields_nulls_and_times_are_as_the_tables_say() {
    let sql = "
        CREATE TABLE numbers (n BIGINT, t TIMESTAMP(3))
          WITH ('connector' = 'filesystem', 'path' = 'numbers', 'format' = 'json', 'json.fail-on-missing-field' = 'true');
        CREATE TABLE result (n BIGINT, t TIMESTAMP(3)) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json',
          'json.timestamp-format.standard' = 'ISO-8601', 'json.encode.ignore-null-fields' = 'true');
        INSERT INTO result SELECT n, t FROM numbers;";
    let place = Place::new(1, sql);
    write_numbers(&place, "{\"n\":3,\"t\":null}\n{\"n\":4}\n");
    refused(&place, 3, &["byte 17", "the field 't' is missing", "'json.fail-on-missing-field'"]);

    write_numbers(&place, "{\"n\":3,\"t\":null}\n{\"n\":null,\"t\":\"2024-02-29 00:00:01.5\"}\n");

    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":3}", "{\"t\":\"2024-02-29T00:00:01.5\"}"]);
}

#[test]
fn a_row_without_event_time_is_named_and_the_job_runs_once_it_is_left_out() {
    let windowed = |condition: &str| {
        format!(
            "CREATE TABLE numbers (n INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
               WITH ('connector' = 'filesystem', 'path' = 'numbers', 'format' = 'json');
             CREATE TABLE result (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
             INSERT INTO result SELECT SUM(n) FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' DAY)) {condition}
               GROUP BY window_start, window_end;"
        )
    };
    let place = Place::new(1, &windowed(""));
    write_numbers(&place, "{\"n\":1,\"ts\":\"2024-02-29 00:00:00\"}\n{\"n\":2,\"ts\":null}\n");
    refused(&place, 3, &["the event time of a row is NULL", "WHERE … IS NOT NULL"]);

    place.set_job(1, &windowed("WHERE ts IS NOT NULL"));
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":1}"]);
}

#[test]
fn a_damaged_segment_is_named_and_the_job_goes_on_once_it_is_whole() {
    let windowed = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts) WITH ('connector' = 'nexmark', 'events' = '40000', 'rows-per-second' = '20000');
CREATE TABLE result (auction BIGINT, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
INSERT INTO result SELECT bid.auction, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR))
  WHERE event_type = 2 GROUP BY bid.auction, window_start, window_end;";
    let place = Place::new(1, windowed);
    let mut job = place.start(&[]);
    super::harness::wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    job.kill().unwrap();
    job.wait().unwrap();
    let segments = place.path().join(".millrace/default/job/segments");
    let mut whole = Vec::new();
    for segment in fs::read_dir(segments).unwrap() {
        let path = segment.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        whole.push((path, bytes));
    }

    let why = "No older checkpoint can take the place of the newest: ";
    refused(&place, 3, &["segments/", "cut short", "put it back from a copy", why]);

    whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let straight = Place::new(2, &windowed.replace(", 'rows-per-second' = '20000'", ""));
    assert!(straight.run(&[]).status.success());
    let rows = place.rows("result");
    assert!(!rows.is_empty() && rows == straight.rows("result"), "{} rows", rows.len());
}

/// A job that was killed after some checkpoints, of which the newest is damaged then; with what was in its segments.
fn damaged_after_checkpoints(sql: &str) -> (Place, Vec<(std::path::PathBuf, Vec<u8>)>) {
    let place = Place::new(1, sql);
    let mut job = place.start(&[]);
    super::harness::wait_until("three checkpoints are complete", || {
        place.log().matches("checkpoint complete").count() >= 3
    });
    job.kill().unwrap();
    job.wait().unwrap();
    let folder = |name: &str| {
        let listed = fs::read_dir(place.path().join(".millrace/default/job").join(name)).unwrap();
        let mut paths: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let number = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.split('-').next().unwrap().trim_start_matches('0').parse::<u64>().unwrap()
    };
    let newest = folder("manifests").iter().map(number).max().unwrap();
    let of_newest = folder("segments").into_iter().filter(|segment| number(segment) >= newest);
    let whole: Vec<_> = of_newest.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    assert!(!whole.is_empty(), "{:?}", folder("segments"));
    whole.iter().for_each(|(segment, _)| fs::write(segment, "not what it was").unwrap());
    (place, whole)
}

#[test]
fn an_older_checkpoint_takes_the_place_of_a_damaged_one_if_nothing_was_written_since() {
    let sql = |more: &str, rate: &str| {
        format!(
            "CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
               WATERMARK FOR ts AS ts) WITH ('connector' = 'nexmark', 'events' = '60000'{rate});
             CREATE TABLE result (auction BIGINT, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
             INSERT INTO result SELECT bid.auction, COUNT(*)
               FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR))
               WHERE event_type = 2 GROUP BY bid.auction, window_start, window_end;{more}"
        )
    };
    let beside = "CREATE TABLE beside (event_type INT) WITH ('connector' = 'filesystem', 'path' = 'beside', 'format' = 'json');
             INSERT INTO beside SELECT event_type FROM events WHERE event_type = 0;";
    let slow = ", 'rows-per-second' = '20000'";
    for (more, has_results) in [("", false), (beside, true)] {
        let (place, whole) = damaged_after_checkpoints(&sql(more, slow));
        if has_results {
            let why = "has results that are written already, and an older one would write them again";
            refused(&place, 3, &["segments/", "put it back from a copy", why]);
            whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        }
        let output = place.run(&[]);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.contains("an older checkpoint takes the place of the newest"),
            !has_results,
            "{said}"
        );
        let straight = Place::new(2, &sql(more, ""));
        assert!(straight.run(&[]).status.success());
        for folder in ["result", "beside"].into_iter().take(1 + usize::from(has_results)) {
            let rows = place.rows(folder);
            assert!(!rows.is_empty() && rows == straight.rows(folder), "{folder}: {} rows", rows.len());
        }
    }
}

/// Every object of a checkpoint is cut to nothing, to its half and by a byte, each in turn: named, and never taken for another one.
#[test]
fn damaged_records_are_named_and_the_job_goes_on_once_they_are_whole() {
    let place = Place::new(
        1,
        "CREATE TABLE events (event_type INT) WITH ('connector' = 'nexmark', 'events' = '20000', 'rows-per-second' = '20000');
         CREATE TABLE result (event_type INT) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'json');
         INSERT INTO result SELECT event_type FROM events WHERE event_type = 0;",
    );
    let mut job = place.start(&[]);
    super::harness::wait_until("two checkpoints are complete", || {
        place.log().matches("checkpoint complete").count() >= 2
    });
    job.kill().unwrap();
    job.wait().unwrap();
    let state = place.path().join(".millrace/default/job");
    for folder in ["epochs", "manifests", "generations"] {
        let newest =
            fs::read_dir(state.join(folder)).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        let name = format!("{folder}/{}", newest.file_name().unwrap().to_string_lossy());
        cut_each_way(&place, &newest, &name);
        // Each try has claimed a generation and sealed an epoch unless it was that which was damaged.
        let output = place.verb("validate", &[]);
        assert!(output.status.success());
    }
    cut_each_way(&place, &state.join("job.pb"), "job.pb");
    // Without the record of a checkpoint whose results are visible, rows would be written again.
    let committed =
        fs::read_dir(state.join("commits")).unwrap().map(|entry| entry.unwrap().file_name()).max().unwrap();
    let (record, aside) = (state.join("epochs").join(&committed), state.join("record"));
    fs::rename(&record, &aside).unwrap();
    let name = format!("epochs/{}", committed.to_string_lossy());
    refused(&place, 3, &[&name, "is missing", "put it back from a copy"]);
    fs::rename(&aside, &record).unwrap();

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result").len(), 400);
    cut_each_way(&place, &state.join("finished"), "finished");
    let output = place.run(&[]);
    assert!(
        output.status.success() && text(&output).contains("--from none starts over"),
        "{}",
        text(&output)
    );
    assert_eq!(place.rows("result").len(), 400);
}

/// Cuts an object to nothing, to its half and by a byte: it is named each time. Then it is whole again.
fn cut_each_way(place: &Place, object: &Path, name: &str) {
    let whole = fs::read(object).unwrap();
    let (all, half, most) = (whole.len(), whole.len() / 2, whole.len() - 1);
    let ways = [
        (0, "it is empty".to_owned()),
        (half, format!("it is cut short: {half} bytes of ")),
        (most, format!("it is cut short: {most} bytes of {all}")),
    ];
    for (length, said) in ways {
        fs::write(object, &whole[..length]).unwrap();
        refused(place, 3, &[name, "malformed or cut short", &said, "put it back from a copy"]);
    }
    fs::write(object, &whole).unwrap();
}

#[test]
fn long_conditions_run_and_what_is_too_long_or_too_deep_is_refused() {
    let place = Place::new(1, SQL);
    write_numbers(&place, "{\"n\":1}\n{\"n\":2}\n");
    let condition =
        |terms: usize| (0..terms).map(|term| format!("n <> -{term}")).collect::<Vec<_>>().join(" AND ");
    let sum = |terms: usize| vec!["n"; terms].join(" + ");
    place.set_job(
        1,
        &SQL.replace("SELECT n", &format!("SELECT {}", sum(250))).replace("n > 1", &condition(3000)),
    );

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result"), ["{\"n\":250}", "{\"n\":500}"]);
    let other = Place::new(1, &SQL.replace("n > 1", &format!("{} > 1", sum(3000))));
    refused(&other, 1, &["line 4", "nested 3000 levels deep, and at most 300 are possible"]);
    let longest = Place::new(1, &SQL.replace("n > 1", &condition(9000)));
    refused(&longest, 1, &["words and signs, and at most 20000 are possible"]);
}

#[test]
fn a_job_that_cannot_start_stops_when_it_is_asked_to() {
    let place = Place::new(1, SQL);
    let mut job = place.start(&[]);
    place.wait_until("the missing input is named", || place.log().contains("recovering"));

    signal(job.id(), libc::SIGINT);

    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert!(place.out().contains("stopped"), "{}", place.out());
}

#[test]
fn a_file_that_has_become_shorter_is_named_and_the_job_goes_on_once_it_is_whole() {
    let slow = SQL.replace("'numbers', 'format'", "'numbers', 'scan.rows-per-second' = '20000', 'format'");
    let place = Place::new(1, &slow);
    let lines: String = (0..200_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    write_numbers(&place, &lines);
    let mut job = place.start(&[]);
    place.wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", place.log());

    write_numbers(&place, &lines[..100]);
    refused(&place, 3, &["numbers/a.jsonl' has 100 bytes, and had", "put the file back"]);

    write_numbers(&place, &lines);
    place.edit_job("20000", "1000000");
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("result").len(), 199_998);
}

#[test]
fn lines_of_csv_are_read_and_written_and_a_wrong_one_is_named() {
    let sql = |more: &str| {
        let columns = "n BIGINT, name STRING, ts TIMESTAMP(3)";
        format!(
            "CREATE TABLE numbers ({columns}) WITH ('connector' = 'filesystem', 'path' = 'numbers', 'format' = 'csv', 'csv.field-delimiter' = ';'{more});
CREATE TABLE result ({columns}) WITH ('connector' = 'filesystem', 'path' = 'result', 'format' = 'csv');
INSERT INTO result SELECT n, name, ts FROM numbers WHERE n > 1;"
        )
    };
    let place = Place::new(2, &sql(""));
    let rows: String =
        (1..=3000).map(|n| format!("{n};\"number {n}, of; some\";2024-02-29 00:00:00.5\n")).collect();
    write_numbers(&place, &format!("{rows}one;;\n4000;last;\n"));
    refused(
        &place,
        3,
        &[
            &format!("has a line at byte {} that is not a row of the table", rows.len()),
            "'one' is not a value of the column 'n', which is BIGINT; the line: one;;",
            "'csv.ignore-parse-errors' = 'true'",
        ],
    );

    place.set_job(2, &sql(", 'csv.ignore-parse-errors' = 'true'"));
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let mut expected: Vec<String> =
        (2..=3000).map(|n| format!("{n},\"number {n}, of; some\",2024-02-29 00:00:00.5")).collect();
    expected.push("4000,last,".to_owned());
    expected.sort();
    assert_eq!(place.rows("result"), expected);
}

const TYPES: &str = "b BOOLEAN, i1 TINYINT, i2 SMALLINT, i4 INT, i8 BIGINT, f FLOAT, d DOUBLE, m DECIMAL(20, 4), s STRING, y BYTES,
  dt DATE, tm TIME(3), ts TIMESTAMP(3), us TIMESTAMP(6), tz TIMESTAMP_LTZ(3), r ROW<a INT, c ROW<e STRING>>, ar ARRAY<STRING>, mp MAP<STRING, INT>";

#[test]
fn values_of_all_types_pass_through_parquet_in_every_compression() {
    let rows = concat!(
        r#"{"b":true,"i1":-128,"i2":32767,"i4":-5,"i8":9223372036854775807,"f":1.5,"d":-0.25,"m":1234567890123456.7891,"s":"ünï, \"q\"","y":"AAEC","#,
        r#""dt":"2024-02-29","tm":"12:34:56.789","ts":"2024-02-29 12:34:56.789","us":"2024-02-29 12:34:56.789012","tz":"2024-02-29 12:34:56.789Z","#,
        r#""r":{"a":1,"c":{"e":"x"}},"ar":["a",null,""],"mp":{"k":7,"l":null}}"#,
        "\n{}\n",
        r#"{"s":"","r":{"a":null,"c":null},"ar":[],"mp":{},"dt":"1969-12-31","ts":"1969-12-31 23:59:59.999"}"#,
        "\n"
    );
    let files = |name: &str, format: &str| {
        format!(
            "CREATE TABLE {name} ({TYPES}) WITH ('connector' = 'filesystem', 'path' = '{name}', 'format' = '{format});"
        )
    };
    for compression in ["SNAPPY", "UNCOMPRESSED", "GZIP", "ZSTD", "LZ4_RAW"] {
        let columns = format!("parquet', 'parquet.compression' = '{compression}'");
        let copy = format!(
            "{}{}{}INSERT INTO columnar SELECT * FROM given; INSERT INTO straight SELECT * FROM given;",
            files("given", "json'"),
            files("columnar", &columns),
            files("straight", "json'")
        );
        let place = Place::new(1, &copy);
        fs::create_dir(place.path().join("given")).unwrap();
        fs::write(place.path().join("given/rows.jsonl"), rows).unwrap();
        let output = place.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        let magic = fs::read(&place.files("columnar")[0]).unwrap();
        assert!(magic.starts_with(b"PAR1") && magic.ends_with(b"PAR1"));
        let back = format!(
            "CREATE TABLE columnar ({TYPES}) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'parquet');{}
             INSERT INTO back SELECT * FROM columnar;",
            place.path().join("columnar").display(),
            files("back", "json'")
        );
        let reading = Place::new(2, &back);
        let output = reading.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        let rows = place.rows("straight");
        assert_eq!(rows.len(), 3);
        assert_eq!(reading.rows("back"), rows, "{compression}");
    }
}

#[test]
fn parquet_files_that_do_not_fit_the_table_are_named_with_their_cure() {
    let writing = Place::new(
        1,
        "CREATE TABLE n (n BIGINT, s STRING, m DECIMAL(10, 4), r ROW<a INT>, `a.b` INT, q ROW<`c.d` INT>, us TIMESTAMP(6),
           ar ARRAY<ROW<a INT, b STRING>>, mp MAP<STRING, INT>, ut MAP<STRING, TIMESTAMP(6)>)
           WITH ('connector' = 'filesystem', 'path' = 'n', 'format' = 'parquet');
         INSERT INTO n SELECT n, s, m, r, x, q, us, ARRAY[ROW(x, s)], MAP[s, 300], MAP[s, us] FROM (VALUES
           (CAST(300 AS BIGINT), 'x', 1.25, ROW(7), 1, ROW(3), TIMESTAMP '1969-12-31 23:59:59.999999'),
           (CAST(NULL AS BIGINT), 'y', 2.5, ROW(8), 2, ROW(4), TIMESTAMP '2024-01-01 00:00:00.000001')) AS t (n, s, m, r, x, q, us);",
    );
    assert!(writing.run(&[]).status.success());
    let folder = writing.path().join("n");
    let read = |columns: &str, folder: &std::path::Path| {
        let sql = format!(
            "CREATE TABLE n ({columns}) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'parquet');
             CREATE TABLE out ({columns}) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
             INSERT INTO out SELECT * FROM n;",
            folder.display()
        );
        let place = Place::new(1, &sql);
        let output = place.run(&[]);
        (output.status.code(), text(&output), place)
    };

    // What holds every value is fine, and what is not there is NULL.
    let (code, said, place) =
        read("n INT, m DECIMAL(12, 6), r ROW<a BIGINT, z STRING>, other STRING, s BYTES", &folder);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        place.rows("out"),
        [
            r#"{"n":300,"m":1.250000,"r":{"a":7,"z":null},"other":null,"s":"eA=="}"#,
            r#"{"n":null,"m":2.500000,"r":{"a":8,"z":null},"other":null,"s":"eQ=="}"#
        ]
    );
    let (code, said, place) = read("`a.b` INT, q ROW<`c.d` INT>", &folder);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.rows("out"), [r#"{"a.b":1,"q":{"c.d":3}}"#, r#"{"a.b":2,"q":{"c.d":4}}"#]);
    // Fields go by their names at any depth, and times by the millisecond that has begun.
    let nested = "us TIMESTAMP(3), ar ARRAY<ROW<b STRING, z INT, a BIGINT>>, mp MAP<STRING, BIGINT>, ut MAP<STRING, TIMESTAMP(3)>";
    let (code, said, place) = read(nested, &folder);
    assert_eq!(code, Some(0), "{said}");
    let row = |time: &str, name: &str, number: u8| {
        format!(
            r#"{{"us":"{time}","ar":[{{"b":"{name}","z":null,"a":{number}}}],"mp":{{"{name}":300}},"ut":{{"{name}":"{time}"}}}}"#
        )
    };
    assert_eq!(
        place.rows("out"),
        [row("1969-12-31 23:59:59.999", "x", 1), row("2024-01-01 00:00:00", "y", 2)]
    );
    for (columns, words) in [
        (
            "n STRING",
            &["the column 'n' of '", "is BIGINT there, and the table declares STRING; declare it BIGINT"][..],
        ),
        ("m DECIMAL(10, 2)", &["the column 'm'", "is DECIMAL(10, 4) there"]),
        ("s ROW<a INT>", &["the column 's'", "is STRING there, and the table declares ROW<a INT>"]),
        (
            "r ROW<a STRING>",
            &["the column 'r'", "has a field 'a' that is INT there, and the table declares STRING"],
        ),
        ("n TINYINT", &["the column 'n'", "has a value that is no TINYINT"]),
        ("n BIGINT NOT NULL", &["the column 'n'", "is NULL in some rows", "declare it without NOT NULL"]),
        ("none BIGINT NOT NULL", &["the column 'none'", "is NULL in some rows"]),
        (
            "ar ARRAY<ROW<a STRING>>",
            &[
                "the column 'ar'",
                "has an element that has a field 'a' that is INT there, and the table declares STRING",
            ],
        ),
        ("ar ARRAY<INT>", &["the column 'ar'", "has an element that is ROW<a INT, b STRING> there"]),
        ("mp MAP<STRING, TINYINT>", &["the column 'mp'", "has a value that has a value that is no TINYINT"]),
        ("mp MAP<BIGINT, INT>", &["the column 'mp'", "has a key that is STRING there"]),
    ] {
        let (code, said, _) = read(columns, &folder);
        assert_eq!(code, Some(3), "{columns}: {said}");
        assert!(words.iter().all(|words| said.contains(words)), "{columns}: {said}");
    }
    let whole = fs::read(&writing.files("n")[0]).unwrap();
    for (bytes, words) in [
        (&b"no columns at all"[..], "is not a Parquet file"),
        (&whole[..whole.len() - 9], "is not a Parquet file"),
    ] {
        let damaged = tempfile::tempdir().unwrap();
        fs::write(damaged.path().join("rows.parquet"), bytes).unwrap();
        let (code, said, _) = read("n BIGINT", damaged.path());
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(words) && said.contains("rows.parquet"), "{said}");
    }
}

/// Each file is begun early, as their times are the same.
#[test]
fn more_files_are_read_than_the_process_can_have_open() {
    let place = Place::new(
        2,
        "CREATE TABLE n (n BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'filesystem', 'path' = 'n', 'format' = 'json');
         CREATE TABLE sums (w TIMESTAMP(3), n BIGINT, total BIGINT) WITH ('connector' = 'filesystem', 'path' = 'sums', 'format' = 'json');
         INSERT INTO sums SELECT window_start, COUNT(*), SUM(n) FROM TABLE(TUMBLE(TABLE n, DESCRIPTOR(ts), INTERVAL '1' DAY))
           GROUP BY window_start, window_end;",
    );
    fs::create_dir(place.path().join("n")).unwrap();
    for n in 0..400 {
        let row = format!("{{\"n\":{n},\"ts\":\"2024-02-29 12:00:00\"}}\n");
        fs::write(place.path().join(format!("n/{n}.jsonl")), row).unwrap();
    }

    let mut job = place.start_through(&["sh", "-c", "ulimit -n 160; exec \"$0\" \"$@\""]);

    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert_eq!(
        place.rows("sums"),
        [format!("{{\"w\":\"2024-02-29 00:00:00\",\"n\":400,\"total\":{}}}", 399 * 200)]
    );
}

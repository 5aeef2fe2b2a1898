//! `millrace sql`: what it shows, in every form, and what it says of mistakes.

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use super::harness::{Place, text, wait_until};

const TABLE: &str = "CREATE TABLE s (k STRING, v INT, t TIMESTAMP(3))
WITH ('connector' = 'filesystem', 'path' = 's', 'format' = 'json')";
const ROWS: &str = concat!(
    "{\"k\":\"a\",\"v\":1,\"t\":\"2024-02-29 00:00:00.5\"}\n",
    "{\"k\":\"b, c\",\"v\":2}\n",
    "{\"k\":\"a\",\"v\":5,\"t\":\"2024-02-29 00:00:01\"}\n"
);

fn sql(arguments: &[&str], input: &str) -> Output {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("s")).unwrap();
    std::fs::write(place.path().join("s/rows.json"), ROWS).unwrap();
    std::fs::write(place.path().join("tables.sql"), TABLE).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.current_dir(place.path()).arg("sql").args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The rows of a query, as lines of CSV, sorted.
fn shown(query: &str) -> Vec<String> {
    let output = sql(&["-e", query, "--output", "csv"], "");
    assert!(output.status.success(), "{}", text(&output));
    let mut lines: Vec<String> = text(&output).lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn the_rows_of_a_query_are_shown_in_every_form() {
    let query = "SELECT k, SUM(v) AS total, MIN(t) FROM s GROUP BY k";
    let shown = |output: &str| {
        let output = sql(&["-f", "tables.sql", "-e", query, "--output", output], "");
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };

    let table = "\
| k    | total | EXPR$2                  |
|------|-------|-------------------------|
| b, c |     2 | NULL                    |
| a    |     6 | 2024-02-29 00:00:00.500 |
2 rows
";
    let in_order = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(in_order(&shown("table")), in_order(table));
    assert_eq!(
        in_order(&shown("json")),
        [
            "{\"k\":\"a\",\"total\":6,\"EXPR$2\":\"2024-02-29 00:00:00.500\"}",
            "{\"k\":\"b, c\",\"total\":2,\"EXPR$2\":null}"
        ]
    );
    let csv = shown("csv");
    assert!(csv.starts_with("k,total,EXPR$2\n"), "{csv}");
    assert_eq!(in_order(&csv), ["\"b, c\",2,", "a,6,2024-02-29 00:00:00.500", "k,total,EXPR$2"]);
    let changes = shown("changelog");
    assert!(
        changes.lines().all(|line| line.starts_with(['+', '-'])) && changes.contains("[a, 6, "),
        "{changes}"
    );
}

#[test]
fn values_of_chance_are_others_with_each_row_and_the_same_wherever_a_row_is_read() {
    let rows = "(VALUES (1), (2), (3)) AS t(x)";
    let made =
        format!("(SELECT UUID() AS u, UUID() AS v, RAND() AS r, RAND_INTEGER(5) AS i FROM {rows}) AS made");
    assert_eq!(
        shown(&format!("SELECT u = again, u <> v FROM (SELECT u, u AS again, v FROM {made}) AS s")),
        ["TRUE,TRUE"; 3]
    );
    assert_eq!(
        shown(&format!("SELECT COUNT(*), COUNT(DISTINCT u), COUNT(DISTINCT r) FROM {made}")),
        ["3,3,3"]
    );
    assert_eq!(
        shown(&format!("SELECT r >= 0 AND r < 1 AND i BETWEEN 0 AND 4 FROM {made} WHERE r + 1 >= r")),
        ["TRUE"; 3]
    );
    assert_eq!(shown(&format!("SELECT RAND_INTEGER(42, 10) FROM {rows}")), ["0", "3", "8"]);
    let texts = shown(&format!("SELECT u FROM {made}"));
    assert!(texts.iter().all(|uuid| uuid.len() == 36 && uuid.as_bytes()[14] == b'4'), "{texts:?}");
}

#[test]
fn rows_can_stand_in_the_text_itself() {
    assert_eq!(shown("SELECT 1 + 1, UPPER('x'), CAST(NULL AS INT)"), ["2,X,"]);
    assert_eq!(shown("SELECT 1 WHERE 2 > 3"), [""; 0]);
    assert_eq!(shown("VALUES (1, 'a', 0.5), (2, CAST(NULL AS STRING), 12.25), (3, 'c', 2)").len(), 3);
    let (first, second) = ("1,a,0.50", "2,,12.25");
    assert_eq!(shown("VALUES (1, 'a', 0.50), (2, NULL, 12.25)"), [first, second]);
    assert_eq!(
        shown("SELECT k, SUM(v) FROM (VALUES ('a', 1), ('b', 2), ('a', 3)) AS t(k, v) GROUP BY k"),
        ["a,4", "b,2"]
    );
    assert_eq!(shown("SELECT 1 UNION ALL SELECT 2 UNION ALL VALUES (3)"), ["1", "2", "3"]);
    // Where one row has a binary fraction, decimals become such, and keep what they are.
    assert_eq!(shown("VALUES (1e300), (0.25), (7)"), ["0.25", "1.0E300", "7.0"]);
    assert_eq!(
        shown("SELECT 1e300 AS x UNION ALL SELECT 0.25 UNION ALL SELECT 7"),
        ["0.25", "1.0E300", "7.0"]
    );
    let sums = "SELECT x * 2 FROM (SELECT x FROM (VALUES (0.5), (1e300)) AS t(x) UNION ALL SELECT 2.25) AS u";
    assert_eq!(shown(sums), ["1.0", "2.0E300", "4.5"]);
    let nested = "SELECT x FROM (SELECT x FROM (VALUES (0.5), (1e300)) AS t(x) UNION ALL SELECT 2e0) AS u";
    assert_eq!(shown(nested), ["0.5", "1.0E300", "2.0"]);
    // What is cast to a decimal stays one.
    assert_eq!(shown("VALUES (CAST(1.239e0 AS DECIMAL(10, 2)))"), ["1.24"]);
    assert_eq!(shown("VALUES (CAST(1.239e0 AS DECIMAL(10, 2))), (2.5)"), ["1.24", "2.50"]);
    let nan = "SELECT x = y, x <> y, x > 1, x < 1, x IN (y), CASE x WHEN y THEN 1 ELSE 0 END
               FROM (VALUES (CAST('NaN' AS DOUBLE), CAST('NaN' AS DOUBLE))) AS t(x, y)";
    assert_eq!(shown(nan), ["FALSE,TRUE,FALSE,FALSE,FALSE,0"]);
    let zeros = "SELECT x = 0, x < 0, x IN (5, 0), CASE x WHEN 0e0 THEN 'zero' END, x NOT IN (0, NULL)
                 FROM (VALUES (-0e0), (0e0), (CAST(NULL AS DOUBLE))) AS t(x)";
    assert_eq!(shown(zeros), [",,,,", "TRUE,FALSE,TRUE,zero,FALSE", "TRUE,FALSE,TRUE,zero,FALSE"]);
    let many: Vec<String> = (1..200).map(|n| format!("{n}e0")).collect();
    let many = format!("SELECT -0e0 IN ({0}), -0e0 IN (0e0, {0}), 7e0 NOT IN ({0})", many.join(", "));
    assert_eq!(shown(&many), ["FALSE,TRUE,FALSE"]);
    let output = sql(&["-e", "VALUES (1, 2), (3)"], "");
    assert!(!output.status.success() && text(&output).contains("VALUES"), "{}", text(&output));
}

/// Rows come in one order here, as there is one split.
#[test]
fn the_first_the_last_and_the_list_of_values_go_by_the_order_of_rows() {
    let all = "FIRST_VALUE(v), LAST_VALUE(v), LISTAGG(s), LISTAGG(DISTINCT s, ' | '), LISTAGG(s, '') FILTER (WHERE v > 1)";
    let rows = "(VALUES ('a', 3, 'x'), ('b', CAST(NULL AS INT), CAST(NULL AS STRING)), ('a', 1, CAST(NULL AS STRING)), ('a', 2, 'y'),
                  ('a', CAST(NULL AS INT), 'x')) AS t(k, v, s)";
    let of_groups = shown(&format!("SELECT k, {all} FROM {rows} GROUP BY k"));
    assert_eq!(of_groups, ["a,3,2,\"x,y,x\",x | y,xy", "b,,,,,"]);

    let numbers = "CREATE TABLE g (n BIGINT, ts AS CAST(TO_TIMESTAMP_LTZ(n * 1000, 3) AS TIMESTAMP(3)), WATERMARK FOR ts AS ts)
      WITH ('connector' = 'datagen', 'splits' = '1', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '39');";
    let of_windows = |window: &str, condition: &str| {
        shown(&format!(
            "{numbers} SELECT FIRST_VALUE(n), LAST_VALUE(n), LISTAGG(CAST(n AS STRING)) FROM TABLE({window}) {condition}
             GROUP BY window_start, window_end"
        ))
    };
    let list = |range: std::ops::RangeInclusive<i32>| {
        let (first, last) = (*range.start(), *range.end());
        let all: Vec<String> = range.map(|n| n.to_string()).collect();
        format!("{first},{last},\"{}\"", all.join(","))
    };
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    let tumble = of_windows("TUMBLE(TABLE g, DESCRIPTOR(ts), INTERVAL '20' SECOND)", "");
    assert_eq!(tumble, [list(0..=19), list(20..=39)]);
    let halves = of_windows("TUMBLE(TABLE g, DESCRIPTOR(ts), INTERVAL '2.5' SECOND)", "WHERE n < 5");
    assert_eq!(halves, [list(0..=2), list(3..=4)]);
    // Of so many slices that their merges would be shared.
    let hop = of_windows("HOP(TABLE g, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '20' SECOND)", "");
    let windows = (-18..=38).step_by(2).map(|start| list(start.max(0)..=(start + 19).min(39)));
    assert_eq!(hop, sorted(windows.collect()));
    let sessions = of_windows(
        "SESSION(TABLE g, DESCRIPTOR(ts), INTERVAL '5' SECOND)",
        "WHERE n < 10 OR n BETWEEN 20 AND 25",
    );
    assert_eq!(sessions, [list(0..=9), list(20..=25)]);

    for (query, words) in [
        (
            "SELECT LISTAGG(s, k) FROM (VALUES ('a', 'b')) AS t(k, s)",
            "the separator of LISTAGG is a text in quotes",
        ),
        ("SELECT LISTAGG(v) FROM (VALUES (1)) AS t(v)", "'LISTAGG' does not take values of the type INT"),
        ("SELECT LISTAGG(s ORDER BY s) FROM (VALUES ('a')) AS t(s)", "rows are taken as they come"),
    ] {
        let output = sql(&["-e", query], "");
        assert!(!output.status.success() && text(&output).contains(words), "{query}: {}", text(&output));
    }
}

/// Values of rows that are taken back go, and those behind them are shown.
#[test]
fn the_least_the_first_and_the_list_of_values_that_are_taken_back() {
    let counts = "CREATE TABLE g (n BIGINT) WITH ('connector' = 'datagen', 'splits' = '1', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '9999');
      CREATE VIEW counts AS SELECT k, COUNT(*) AS n, MAX(v) AS v FROM (SELECT MOD(n, 7) AS k, n AS v FROM g) AS t GROUP BY k;";
    let all = "MIN(n), MAX(n), MIN(v), MAX(v), MAX(v) FILTER (WHERE k < 3), MIN(CAST(v AS DECIMAL(10, 2))), MAX(CAST(v AS STRING)), MIN(CAST(v AS DOUBLE))";
    // Of each key the last value is there in the end: 9993 to 9999, and of the first four one more.
    let expected = "1428,1429,9993,9999,9998,9993.00,9999,9993.0";
    assert_eq!(shown(&format!("{counts} SELECT {all} FROM counts")), [expected]);

    // One row only is there in the end, and its values are the first and the last and the whole list.
    let last = "CREATE VIEW one AS SELECT MAX(n) AS v, CAST(MAX(n) AS STRING) AS s FROM g;";
    let of_one = "SELECT FIRST_VALUE(v), LAST_VALUE(s), LISTAGG(s), LISTAGG(DISTINCT s), FIRST_VALUE(v) FILTER (WHERE v < 3) FROM one";
    assert_eq!(shown(&format!("{counts} {last} {of_one}")), ["9999,9999,9999,9999,"]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "compares with the time of a job")]
fn functions_that_ask_the_clock_tell_the_time_of_the_batch() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let rows = shown(
        "SELECT UNIX_TIMESTAMP(), UNIX_TIMESTAMP(DATE_FORMAT(NOW(), 'yyyy-MM-dd HH:mm:ss')), NOW() = CURRENT_TIMESTAMP, PROCTIME() = current_row_timestamp(),
           CAST(LOCALTIMESTAMP AS DATE) = CURRENT_DATE, CAST(LOCALTIMESTAMP AS STRING) LIKE CONCAT(CAST(CURRENT_DATE AS STRING), ' ', CAST(LOCALTIME AS STRING), '%'),
           CURRENT_TIME = LOCALTIME, DATE '2024-01-01' < CURRENT_DATE, CAST('2999-01-01 00:00:00' AS TIMESTAMP(3)) > LOCALTIMESTAMP - INTERVAL '1' DAY
         FROM (VALUES (1)) AS t(v) WHERE CURRENT_TIMESTAMP > TO_TIMESTAMP_LTZ(0, 3)",
    );
    let after = now();
    let fields: Vec<&str> = rows[0].split(',').collect();
    for seconds in &fields[..2] {
        assert!((before..=after).contains(&seconds.parse().unwrap()), "{before} {rows:?} {after}");
    }
    assert_eq!(fields[2..], ["TRUE"; 7], "{rows:?}");
    // A column of that name has quotes.
    assert_eq!(shown("SELECT `LOCALTIME` FROM (VALUES (7)) AS t(`LOCALTIME`)"), ["7"]);
    let typed = "CREATE TABLE out (a TIMESTAMP_LTZ(3), b TIMESTAMP(3), c DATE, d TIME, e BIGINT, f TIMESTAMP_LTZ(3)) WITH ('connector' = 'print');
      CREATE TABLE one (n BIGINT, at AS PROCTIME()) WITH ('connector' = 'datagen', 'number-of-rows' = '3', 'splits' = '1');
      INSERT INTO out SELECT CURRENT_TIMESTAMP, LOCALTIMESTAMP, CURRENT_DATE, LOCALTIME, UNIX_TIMESTAMP(), at FROM one;";
    let output = Place::new(1, typed).run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains("> +I[2")).count(),
        3
    );
}

#[test]
fn variances_and_deviations_have_the_type_of_their_values() {
    let all = "VAR_POP(v), VAR_SAMP(v), VARIANCE(v), STDDEV_POP(v), STDDEV_SAMP(v), STDDEV(v)";
    let of = |values: &str| {
        shown(&format!("SELECT k, {all}, COUNT(*) FROM (VALUES {values}) AS t(k, v) GROUP BY k"))
    };

    // 2, 4, 4, 4, 5, 5, 7, 9: the mean is 5, the squares of the distances add up to 32.
    let eight = [2, 4, 4, 4, 5, 5, 7, 9];
    let doubles = eight.map(|n| format!("('a', {n}e0)")).join(", ");
    let root = (32.0_f64 / 7.0).sqrt();
    assert_eq!(of(&doubles), [format!("a,4.0,{0},{0},2.0,{root},{root},8", 32.0 / 7.0)]);
    // Whole numbers stay whole.
    let whole = eight.map(|n| format!("('a', {n})")).join(", ");
    assert_eq!(of(&whole), ["a,4,4,4,2,2,2,8"]);
    let decimals = eight.map(|n| format!("('a', {n}.00)")).join(", ");
    let of_decimals = of(&decimals);
    assert!(of_decimals[0].starts_with("a,4.000000,4.571429,4.571429,2.000000,2.138090,"), "{of_decimals:?}");
    // One value, none, what is left of equal ones, and what is no number.
    assert_eq!(of("('a', 7e0), ('b', CAST(NULL AS DOUBLE))"), ["a,0.0,,,0.0,,,1", "b,,,,,,,1"]);
    assert_eq!(of("('a', 0.1e0), ('a', 0.1e0), ('a', 0.1e0)"), ["a,0.0,0.0,0.0,0.0,0.0,0.0,3"]);
    assert_eq!(of("('a', 1e0), ('a', CAST('NaN' AS DOUBLE))"), ["a,NaN,NaN,NaN,NaN,NaN,NaN,2"]);
    // With filters, beside others, over windows, and in conditions.
    let filtered =
        "SELECT STDDEV_POP(v) FILTER (WHERE v > 0), SUM(v) FROM (VALUES (2e0), (4e0), (-9e0)) AS t(v)
                    HAVING VAR_POP(v) > 1";
    assert_eq!(shown(filtered), ["1.0,-3.0"]);
    let output =
        sql(&["-e", "SELECT VAR_POP(CAST(v AS DECIMAL(30, 20))) FROM (VALUES (1), (2)) AS t(v)"], "");
    assert!(text(&output).contains("0.2500000"), "{}", text(&output));
    let output = sql(&["-e", "SELECT VAR_POP(DISTINCT v) FROM (VALUES (1)) AS t(v)"], "");
    assert!(!output.status.success() && text(&output).contains("DISTINCT in VAR_POP"), "{}", text(&output));
    let output = sql(&["-e", "SELECT STDDEV(v) FROM (VALUES ('x')) AS t(v)"], "");
    assert!(text(&output).contains("'STDDEV' does not take values of the type"), "{}", text(&output));
}

#[test]
fn statements_come_from_standard_input_and_no_rows_are_said_to_be_none() {
    let output = sql(&[], &format!("{TABLE}; SELECT v FROM s WHERE v > 100;"));

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "no rows\n");
}

/// Rows without columns are spread over the subtasks, and counted by one of them.
#[test]
fn rows_of_which_only_the_number_matters_are_counted_in_parallel() {
    let sql = "
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1',
  'fields.n.end' = '5000');
CREATE TABLE counted (n BIGINT) WITH ('connector' = 'blackhole');
CREATE TABLE one (n BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO counted SELECT COUNT(*) FROM numbers;
INSERT INTO one SELECT CAST(5000 AS BIGINT);";
    for arguments in [&[][..], &["--workers", "2"]] {
        let place = Place::new(2, sql);
        let output = place.run(arguments);
        assert!(output.status.success(), "{}", text(&output));
        let text = text(&output);
        let sum =
            |table: &str| text.split(&format!("checksum of {table}.n: ")).nth(1).unwrap()[..16].to_owned();
        assert_eq!(sum("counted"), sum("one"), "{text}");
    }
}

#[test]
fn files_and_arguments_are_statements_with_or_without_semicolons() {
    let view = "CREATE VIEW v AS SELECT v + 1 AS v FROM s -- one more";
    let output = sql(&["-f", "tables.sql", "-e", view, "-e", "SELECT v FROM v WHERE v = 6", "-o", "csv"], "");

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "v\n6\n");
}

#[test]
fn endless_input_is_shown_as_it_comes_and_ends_with_the_reader() {
    let events = "CREATE TABLE e (event_type INT) WITH ('connector' = 'nexmark', 'rows-per-second' = '1000')";
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(["sql", "-e", &format!("{events}; SELECT event_type FROM e WHERE event_type = 2")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));

    let first = lines.next().unwrap().unwrap();
    drop(lines);

    assert_eq!(first, "+I[2]");
    assert_eq!(child.wait().unwrap().code(), Some(3), "it notices that nobody reads any more");
}

#[test]
fn mistakes_in_queries_have_their_place_and_cure() {
    let cases: [(&[&str], &str); 6] = [
        (&["-e", "SELECT w FROM s"], "there is no column 'w'"),
        (&["-e", "SELECT v FROM t"], "there is no table or view 't'"),
        (&["-e", "CREATE VIEW v AS SELECT v FROM s"], "the statements do not end with a SELECT"),
        (&["-e", "INSERT INTO s SELECT v FROM s; SELECT v FROM s"], "millrace run JOB.yaml"),
        (&["-e", "SELECT v FROM s; SELECT k FROM s"], "show one query at a time"),
        (&["-f", "no.sql"], "failed to read 'no.sql'"),
    ];
    for (arguments, expected) in cases {
        let output = sql(&[&["-f", "tables.sql"], arguments].concat(), "");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    let endless = "CREATE TABLE e (event_type INT) WITH ('connector' = 'nexmark');
                   SELECT event_type, COUNT(*) FROM e GROUP BY event_type";
    let output = sql(&["-e", endless, "-o", "json"], "");
    assert!(text(&output).contains("use --output changelog"), "{}", text(&output));
}

/// What Java's `ZonedDateTime` gives. Berlin's clock is put forward on 2024-03-31 at 01:00 UTC, and back on 2024-10-27.
#[test]
fn points_in_time_are_shown_on_the_clock_of_the_jobs_zone() {
    let cases = [
        ("TO_TIMESTAMP_LTZ(0, 0)", "1970-01-01 01:00:00.000"),
        ("CAST(TO_TIMESTAMP_LTZ(1711846799999) AS STRING)", "2024-03-31 01:59:59.999"),
        ("CAST(TO_TIMESTAMP_LTZ(1711846800, 0) AS TIMESTAMP(3))", "2024-03-31 03:00:00.000"),
        ("CAST(TO_TIMESTAMP_LTZ(1719784800, 0) AS DATE)", "2024-07-01"),
        ("CAST(TO_TIMESTAMP_LTZ(1719784800, 0) AS TIME)", "00:00:00"),
        // A time that the clock leaves out, and one that it shows twice.
        ("UNIX_TIMESTAMP('2024-03-31 02:30:00')", "1711848600"),
        ("CAST(TIMESTAMP '2024-03-31 02:30:00' AS TIMESTAMP_LTZ(3))", "2024-03-31 03:30:00.000"),
        ("UNIX_TIMESTAMP('2024-10-27 02:30:00')", "1729989000"),
        ("UNIX_TIMESTAMP('no time')", "-9223372036854775808"),
        ("CAST('2024-01-05 10:00:00.25' AS TIMESTAMP(3) WITH LOCAL TIME ZONE)", "2024-01-05 10:00:00.250"),
        ("TRY_CAST('no time' AS TIMESTAMP_LTZ)", "NULL"),
        ("CAST(DATE '2024-07-01' AS TIMESTAMP_LTZ(0)) = TO_TIMESTAMP_LTZ(1719784800, 0)", "TRUE"),
        ("TO_TIMESTAMP_LTZ(0, 0) = TIMESTAMP '1970-01-01 01:00:00'", "TRUE"),
        ("HOUR(TO_TIMESTAMP_LTZ(1719784800, 0))", "0"),
        ("EXTRACT(DAY FROM TO_TIMESTAMP_LTZ(1719784799, 0))", "30"),
        ("DATE_FORMAT(TO_TIMESTAMP_LTZ(0, 0), 'HH:mm')", "01:00"),
        ("FROM_UNIXTIME(0)", "1970-01-01 01:00:00"),
        ("FROM_UNIXTIME(1719784800, 'yyyy/MM/dd HH')", "2024/07/01 00"),
        // A day of 23 hours.
        ("TIMESTAMPADD(DAY, 1, TO_TIMESTAMP_LTZ(1711796400, 0))", "2024-03-31 13:00:00.000"),
        ("CAST(LOCALTIMESTAMP AS TIMESTAMP_LTZ(3)) = CURRENT_TIMESTAMP", "TRUE"),
        ("CURRENT_DATE = CAST(CURRENT_TIMESTAMP AS DATE)", "TRUE"),
        ("LOCALTIME = CAST(CAST(CURRENT_TIMESTAMP AS TIMESTAMP(0)) AS TIME)", "TRUE"),
        ("CONVERT_TZ('1970-01-01 00:00:00', 'UTC', 'America/Los_Angeles')", "1969-12-31 16:00:00"),
        ("CONVERT_TZ('2024-07-01 00:00:00', 'GMT+05:30', 'Europe/Berlin')", "2024-06-30 20:30:00"),
        ("CONVERT_TZ('no time', 'UTC', 'UTC')", "NULL"),
        ("CAST('1969-12-31 23:59:59.999' AS TIMESTAMP(1))", "1969-12-31 23:59:59.900"),
        ("CAST('2024-01-05 10:00:00.1234567' AS TIMESTAMP(5))", "2024-01-05 10:00:00.123450"),
    ];
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(at, (expression, _))| format!("{expression} AS c{at}")).collect();
    let select = format!("SELECT {} FROM (VALUES (1)) AS t (one)", columns.join(", "));
    let output =
        sql(&["-e", "SET 'table.local-time-zone' = 'Europe/Berlin'", "-e", &select, "-o", "json"], "");

    assert!(output.status.success(), "{}", text(&output));
    let row: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (at, (expression, expected)) in cases.iter().enumerate() {
        let found = match &row[format!("c{at}")] {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string().to_uppercase(),
        };
        assert_eq!(&found, expected, "{expression}");
    }
}

#[test]
fn windows_over_points_in_time_are_refused_in_another_zone() {
    let table = "CREATE TABLE g (ts TIMESTAMP_LTZ(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen', 'number-of-rows' = '5');";
    let select = "SELECT window_start, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE g, DESCRIPTOR(ts), INTERVAL '1' DAY)) GROUP BY window_start, window_end";
    let in_zone = |zone: &str| {
        let set = format!("SET 'table.local-time-zone' = '{zone}'");
        sql(&["-e", &set, "-e", table, "-e", select], "")
    };

    let refused = in_zone("Asia/Tokyo");

    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(
        text(&refused).contains("local AS CAST(ts AS TIMESTAMP(3)), WATERMARK FOR local AS"),
        "{}",
        text(&refused)
    );
    assert!(in_zone("UTC").status.success());
}

#[test]
fn rows_arrays_and_maps_are_read_and_shown() {
    let table = "CREATE TABLE m (k STRING, m MAP<STRING, DECIMAL(4, 1)>, r ROW<a INT, b ARRAY<STRING>>)
        WITH ('connector' = 'filesystem', 'path' = 'm', 'format' = 'json')";
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("m")).unwrap();
    let rows = "{\"k\":\"x\",\"m\":{\"x\":1.25,\"y\":null},\"r\":{\"a\":1,\"b\":[\"p\",\"q\"]}}\n{\"k\":\"z\",\"m\":{}}\n";
    std::fs::write(place.path().join("m/rows.json"), rows).unwrap();
    let select = "SELECT m, m[k] AS one, r.b[2] AS two, ROW(k, r.a) AS pair, MAP[k, r.b] AS made FROM m";
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.current_dir(place.path()).args(["sql", "-o", "json", "-e", table, "-e", select]);
    let output = command.output().unwrap();

    assert!(output.status.success(), "{}", text(&output));
    let mut lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "{\"m\":{\"x\":\"1.3\",\"y\":null},\"one\":\"1.3\",\"two\":\"q\",\"pair\":{\"EXPR$0\":\"x\",\"EXPR$1\":1},\"made\":{\"x\":[\"p\",\"q\"]}}",
            "{\"m\":{},\"one\":null,\"two\":null,\"pair\":{\"EXPR$0\":\"z\",\"EXPR$1\":null},\"made\":{\"z\":null}}",
        ]
    );
}

#[test]
fn what_is_known_of_a_file_is_a_column() {
    let columns =
        "v INT, path STRING METADATA FROM 'file.path', size BIGINT METADATA FROM 'file.size' VIRTUAL";
    let table = format!(
        "CREATE TABLE m ({columns}) WITH ('connector' = 'filesystem', 'path' = 's', 'format' = 'json')"
    );
    let output = sql(&["-e", &table, "-e", "SELECT size, path FROM m WHERE v = 2", "-o", "csv"], "");

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), format!("size,path\n{},s/rows.json\n", ROWS.len()));
}

/// A terminal with `millrace sql` in it.
struct Prompt {
    terminal: std::fs::File,
    child: std::process::Child,
    shown: Arc<Mutex<String>>,
}

impl Prompt {
    fn start(place: &Path) -> Self {
        let (mut near, mut far) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: both are written, and nothing else is asked for.
        let opened = unsafe { libc::openpty(&mut near, &mut far, null, null.cast(), null.cast()) };
        assert_eq!(opened, 0);
        // SAFETY: they were opened just now, and nobody else has them.
        let (terminal, far) = unsafe { (std::fs::File::from_raw_fd(near), std::fs::File::from_raw_fd(far)) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .arg("sql")
            .current_dir(place)
            .env("HOME", place)
            .env_remove("XDG_STATE_HOME")
            .env("TERM", "xterm")
            .stdin(far.try_clone().unwrap())
            .stdout(far.try_clone().unwrap())
            .stderr(far);
        // Ctrl-C is a signal for whom the terminal belongs to.
        let own_terminal = || match unsafe { (libc::setsid(), libc::ioctl(0, libc::TIOCSCTTY, 0)) } {
            (1.., 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        // SAFETY: between fork and exec these two calls touch no memory.
        let child = unsafe { command.pre_exec(own_terminal) }.spawn().unwrap();
        let shown = Arc::<Mutex<String>>::default();
        let (mut reader, seen) = (terminal.try_clone().unwrap(), Arc::clone(&shown));
        // Ends when the other side of the terminal is closed.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Prompt { terminal, child, shown }
    }

    fn say(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Says a line when it is asked for, and waits for an answer.
    fn ask(&mut self, line: &str, answer: &str) {
        self.wait_for("sql> ");
        self.say(&format!("{line}\r"));
        self.wait_for(answer);
    }

    /// Waits for a text, and forgets what was shown up to it.
    fn wait_for(&self, text: &str) {
        wait_until(&format!("'{text}' is shown"), || {
            let mut shown = self.shown.lock().unwrap();
            let found = shown.find(text).map(|start| start + text.len());
            found.map(|end| shown.drain(..end)).is_some()
        });
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // A process that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_prompt_takes_declarations_and_shows_queries() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("s")).unwrap();
    std::fs::write(place.path().join("s/rows.json"), ROWS).unwrap();
    let mut prompt = Prompt::start(place.path());
    prompt.ask(&format!("{};", TABLE.replace('\n', " ")), "declared");
    prompt.ask("SELECT SUM(v) AS total FROM s;", "|     8 |");
    prompt.ask("SELECT w FROM s;", "line 1, column 8: there is no column 'w'");
    let endless =
        "CREATE TABLE e (event_type INT) WITH ('connector' = 'nexmark', 'rows-per-second' = '100');";
    prompt.ask(endless, "declared");
    prompt.ask("SELECT event_type", "...> ");
    prompt.say("FROM e;\r");
    prompt.wait_for("+I[2]");
    // Ctrl-C ends the query and not the prompt, Ctrl-D the prompt.
    prompt.say("\u{3}");
    prompt.ask("SHOW TABLES;", "s\r\ne\r\n");
    prompt.wait_for("sql> ");
    prompt.say("\u{4}");

    assert!(prompt.child.wait().unwrap().success());
    let history = std::fs::read_to_string(place.path().join(".local/state/millrace/sql-history")).unwrap();
    assert!(history.contains("SELECT SUM(v) AS total FROM s;"), "{history}");
}

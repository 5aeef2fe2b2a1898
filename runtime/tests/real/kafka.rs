//! Rows through Kafka, exactly once, through kills of everything.

use crate::broker::{Broker, PLAIN_USER, SCRAM_USER};
use crate::harness::{Job, Place, signal, text, wait_until};
use std::collections::BTreeMap;

pub(super) fn sql(broker: &str) -> String {
    let options =
        format!("'connector' = 'kafka', 'properties.bootstrap.servers' = '{broker}', 'format' = 'json'");
    format!(
        "CREATE TABLE events (id BIGINT, k INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND)
  WITH ({options}, 'topic' = 'events', 'scan.watermark.idle-timeout' = '5 s');
CREATE TABLE picked (id BIGINT, k INT) WITH ({options}, 'topic' = 'picked', 'properties.compression.type' = 'lz4');
CREATE TABLE totals (k INT, window_end TIMESTAMP(3), n BIGINT, total BIGINT) WITH ({options}, 'topic' = 'totals', 'properties.compression.type' = 'snappy');
INSERT INTO picked SELECT id, k FROM events WHERE k = 3;
INSERT INTO totals SELECT k, window_end, COUNT(*), SUM(id)
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY k, window_start, window_end;"
    )
}

pub(super) fn row(id: i64) -> String {
    let (minute, second, milli) = (id / 60_000, id / 1000 % 60, id % 1000);
    format!(
        "{{\"id\": {id}, \"k\": {}, \"ts\": \"2026-01-01 00:{minute:02}:{second:02}.{milli:03}\"}}",
        id % 7
    )
}

/// What the job must write for rows 0 to `rows`, each a millisecond after the other, computed here by other means.
pub(super) fn expected(rows: i64) -> (Vec<String>, Vec<String>) {
    let mut picked: Vec<String> =
        (0..rows).filter(|id| id % 7 == 3).map(|id| format!("{{\"id\":{id},\"k\":3}}")).collect();
    let mut totals: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
    for id in 0..rows {
        let total = totals.entry((id % 7, id / 1000 + 1)).or_default();
        *total = (total.0 + 1, total.1 + id);
    }
    let total = |((k, end), (n, total)): ((i64, i64), (i64, i64))| {
        let (minute, second) = (end / 60, end % 60);
        format!(
            "{{\"k\":{k},\"window_end\":\"2026-01-01 00:{minute:02}:{second:02}\",\"n\":{n},\"total\":{total}}}"
        )
    };
    let mut totals: Vec<String> = totals.into_iter().map(total).collect();
    picked.sort();
    totals.sort();
    (picked, totals)
}

pub(super) fn restored(log: &str) -> Vec<u64> {
    let epochs = log.split("restored_epoch=").skip(1);
    epochs.map(|rest| rest.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// A figure of the newest checkpoint in a log; 0 if there is none.
pub(super) fn last(log: &str, figure: &str) -> i64 {
    let last = log.rsplit(figure).next().filter(|_| log.contains(figure));
    last.map_or(0, |rest| rest.split_whitespace().next().unwrap().parse().unwrap())
}

fn rows_read(log: &str) -> i64 {
    last(log, "rows_in=")
}

fn kill_a_worker(log: &str) {
    let started = log.split("started a worker process process=").nth(1).unwrap();
    let process = started.split_whitespace().next().unwrap();
    signal(process.parse().unwrap(), libc::SIGKILL);
}

#[test]
fn rows_pass_exactly_once_through_kills_of_worker_job_and_broker() {
    let mut broker = Broker::start(2);
    broker.create_topic("events", 5);
    broker.create_topic("picked", 3);
    broker.create_topic("totals", 1);
    let place = Place::new(2, &sql(broker.address()));
    let mut sent = 0;
    // Partition 4 stays empty for ever.
    let mut send = |broker: &Broker, rows: i64| {
        // Little by little, so that no partition runs ahead of another by more than the watermark's delay.
        for first in (sent..sent + rows).step_by(500) {
            for partition in 0..4 {
                let ids = (first..first + 500).filter(|id| id % 4 == partition);
                broker.append("events", partition as i32, &ids.map(row).collect::<Vec<_>>());
            }
        }
        sent += rows;
        sent
    };

    let mut job = place.start(&["--workers", "2"]);
    let first = send(&broker, 4_000);
    place.wait_until("a checkpoint covers the first rows", || rows_read(&place.log()) == first);
    send(&broker, 4_000);
    kill_a_worker(&place.log());
    let second = send(&broker, 4_000);
    place.wait_until("a checkpoint covers the rows around the kill", || rows_read(&place.log()) == second);
    assert!(restored(&place.log()).iter().any(|epoch| *epoch > 0), "{}", place.log());

    send(&broker, 4_000);
    job.kill().unwrap();
    job.wait().unwrap();
    let mut job = place.start(&["--workers", "2"]);
    let third = send(&broker, 4_000);
    place.wait_until("a checkpoint covers the rows around the job's death", || {
        rows_read(&place.log()) == third
    });
    assert!(restored(&place.log())[0] > 0, "{}", place.log());

    send(&broker, 4_000);
    broker.crash();
    let fourth = send(&broker, 4_000);
    place.wait_until("a checkpoint covers the rows around the broker's crash", || {
        rows_read(&place.log()) == fourth
    });

    // One row far ahead in each partition closes all windows.
    for partition in 0..4 {
        let row = "{\"id\": 0, \"k\": -1, \"ts\": \"2027-01-01 00:00:00\"}".to_owned();
        broker.append("events", partition, &[row]);
    }
    let (picked, totals) = expected(sent);
    let written = (picked.len() + totals.len()) as i64;
    place.wait_until("a checkpoint covers all results", || last(&place.log(), "rows_out=") == written);
    job.kill().unwrap();
    job.wait().unwrap();
    assert_eq!(broker.committed("picked", picked.len()), picked);
    assert_eq!(broker.committed("totals", totals.len()), totals);
}

#[test]
fn missing_topics_are_named_and_the_job_runs_once_they_are_there() {
    let broker = Broker::start(2);
    broker.create_topic("totals", 1);
    let place = Place::new(1, &sql(broker.address()));
    let mut job = place.start(&[]);
    let is_named = |topic: &str| {
        let words = format!("the topic '{topic}' does not exist at {}; create it", broker.address());
        place.log().contains(&words)
    };
    place.wait_until("the missing topic of the source is named", || is_named("events"));
    broker.create_topic("events", 2);
    broker.append("events", 0, &[row(3), row(4)]);
    place.wait_until("the missing topic of the sink is named", || is_named("picked"));

    broker.create_topic("picked", 1);
    place.wait_until("the rows are read", || rows_read(&place.log()) == 2);
    place.wait_until("the row is written", || last(&place.log(), "rows_out=") == 1);
    stop(&place, &mut job);

    assert_eq!(broker.committed("picked", 1), ["{\"id\":3,\"k\":3}"]);
}

/// Ends a job whose input has no end.
pub(super) fn stop(place: &Place, job: &mut Job) {
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", place.log());
}

#[test]
fn a_poison_record_is_named_by_offset() {
    let broker = Broker::start(2);
    for topic in ["events", "picked", "totals"] {
        broker.create_topic(topic, 1);
    }
    broker.append("events", 0, &[row(3), "{\"id\": \"x\", \"k\": 1}".to_owned(), row(4)]);

    let bounded = "'topic' = 'events', 'scan.bounded.mode' = 'latest-offset'";
    let sql = sql(broker.address()).replacen("'topic' = 'events'", bounded, 1);
    let place = Place::new(1, &sql);
    let output = place.run(&[]);

    let text = text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    for words in [
        "the record at offset 1 of partition 0 of the topic 'events' cannot be read",
        "'json.ignore-parse-errors' = 'true'",
    ] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }

    // The cure that the message names; the same state goes on.
    place.set_job(
        1,
        &sql.replacen("'topic' = 'events'", "'topic' = 'events', 'json.ignore-parse-errors' = 'true'", 1),
    );
    let cured = place.run(&[]);
    assert!(cured.status.success(), "{}", crate::harness::text(&cured));
    assert_eq!(broker.committed("picked", 1), ["{\"id\":3,\"k\":3}"]);
    let total = |k: u8| format!("{{\"k\":{k},\"window_end\":\"2026-01-01 00:00:01\",\"n\":1,\"total\":{k}}}");
    assert_eq!(broker.committed("totals", 2), [total(3), total(4)]);
}

#[test]
fn the_newest_row_of_each_key_is_right_through_kills() {
    let broker = Broker::start(2);
    broker.create_topic("events", 2);
    broker.create_topic("counts", 3);
    let options = format!("'properties.bootstrap.servers' = '{}'", broker.address());
    // What HAVING no longer lets through is taken away.
    let place = Place::new(
        2,
        &format!(
            "CREATE TABLE events (id BIGINT, k INT) WITH ({options}, 'connector' = 'kafka', 'topic' = 'events', 'format' = 'json');
CREATE TABLE counts (k INT, n BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED)
  WITH ({options}, 'connector' = 'upsert-kafka', 'topic' = 'counts', 'key.format' = 'json', 'value.format' = 'json', 'properties.compression.type' = 'zstd');
INSERT INTO counts SELECT k, COUNT(*), SUM(id) FROM events GROUP BY k HAVING k <> 3 OR COUNT(*) < 500;"
        ),
    );
    let mut sent = 0;
    let mut send = |rows: i64| {
        for partition in 0..2 {
            let ids = (sent..sent + rows).filter(|id| id % 2 == partition);
            broker.append("events", partition as i32, &ids.map(row).collect::<Vec<_>>());
        }
        sent += rows;
        sent
    };
    let is_covered = |place: &Place, rows: i64| last(&place.log(), "rows_in=") == rows;

    let mut job = place.start(&["--workers", "2"]);
    let first = send(2_000);
    place.wait_until("a checkpoint covers the first rows", || is_covered(&place, first));
    send(2_000);
    kill_a_worker(&place.log());
    let second = send(2_000);
    place.wait_until("a checkpoint covers the rows around the kill", || is_covered(&place, second));
    send(2_000);
    job.kill().unwrap();
    job.wait().unwrap();
    let mut job = place.start(&["--workers", "2"]);
    let third = send(2_000);
    place.wait_until("a checkpoint covers the rows around the job's death", || is_covered(&place, third));

    let mut expected = BTreeMap::<String, String>::new();
    for k in [0, 1, 2, 4, 5, 6] {
        let ids: Vec<i64> = (0..third).filter(|id| id % 7 == k).collect();
        let (n, total) = (ids.len(), ids.iter().sum::<i64>());
        expected.insert(format!("{{\"k\":{k}}}"), format!("{{\"k\":{k},\"n\":{n},\"total\":{total}}}"));
    }
    let mut records = Vec::new();
    let newest = |records: &[(String, String)]| {
        let newest: BTreeMap<String, String> = records.iter().cloned().collect();
        newest.into_iter().filter(|(_, value)| value != "null").collect::<BTreeMap<_, _>>()
    };
    place.wait_until("the results are committed", || {
        records = broker.keyed("counts");
        newest(&records) == expected
    });
    job.kill().unwrap();
    job.wait().unwrap();

    // A key that was taken away has been there before, and no count has ever gone back: nothing was written twice.
    let of = |k: i64| records.iter().filter(move |(key, _)| *key == format!("{{\"k\":{k}}}"));
    let of_three: Vec<_> = of(3).collect();
    assert!(of_three.len() > 1 && of_three.last().unwrap().1 == "null", "{of_three:?}");
    for k in [0, 1, 2, 4, 5, 6] {
        let counts: Vec<i64> = of(k)
            .map(|(_, value)| {
                value.split("\"n\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
            })
            .collect();
        assert!(counts.len() > 1 && counts.is_sorted_by(|a, b| a < b), "{k}: {counts:?}");
    }
}

/// What one job writes by key, another one reads as a table whose rows change, and writes a part of by key again.
#[test]
fn a_topic_of_the_newest_rows_is_a_table_through_kills() {
    let broker = Broker::start(2);
    broker.create_topic("events", 2);
    ["counts", "large", "sizes"].iter().for_each(|topic| broker.create_topic(topic, 3));
    let options = format!("'properties.bootstrap.servers' = '{}'", broker.address());
    let by_key = |topic: &str| {
        format!(
            "{options}, 'connector' = 'upsert-kafka', 'topic' = '{topic}', 'key.format' = 'json', 'value.format' = 'json'"
        )
    };
    let counts = format!(
        "CREATE TABLE counts (k INT, n BIGINT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({});",
        by_key("counts")
    );
    let writing = Place::new(
        2,
        &format!(
            "CREATE TABLE events (id BIGINT, k INT) WITH ({options}, 'connector' = 'kafka', 'topic' = 'events', 'format' = 'json');
{counts}
INSERT INTO counts SELECT k, COUNT(*), SUM(id) FROM events GROUP BY k HAVING k <> 3 OR COUNT(*) < 500;"
        ),
    );
    let reading = Place::new(
        2,
        &format!(
            "{counts}
CREATE TABLE large (k INT, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ({});
CREATE TABLE sizes (size BIGINT, keys BIGINT, PRIMARY KEY (size) NOT ENFORCED) WITH ({});
INSERT INTO large SELECT k, total FROM counts WHERE k > 1;
INSERT INTO sizes SELECT n, COUNT(*) FROM counts GROUP BY n;",
            by_key("large"),
            by_key("sizes")
        ),
    );
    let mut sent = 0;
    let mut send = |rows: i64| {
        for partition in 0..2 {
            let ids = (sent..sent + rows).filter(|id| id % 2 == partition);
            broker.append("events", partition as i32, &ids.map(row).collect::<Vec<_>>());
        }
        sent += rows;
        sent
    };
    let newest = |topic: &str| {
        let newest: BTreeMap<String, String> = broker.keyed(topic).into_iter().collect();
        newest.into_iter().filter(|(_, value)| value != "null").map(|(_, value)| value).collect::<Vec<_>>()
    };
    let is_covered = |place: &Place, rows: i64| last(&place.log(), "rows_in=") >= rows;

    let mut writer = writing.start(&[]);
    let mut reader = reading.start(&["--workers", "2"]);
    send(2_000);
    reading.wait_until("a checkpoint covers the first changes", || is_covered(&reading, 7));
    let seen = last(&reading.log(), "rows_in=");
    send(2_000);
    reading.wait_until("a checkpoint covers further changes", || is_covered(&reading, seen + 7));
    kill_a_worker(&reading.log());
    send(2_000);
    reading.wait_until("the reader is restored", || restored(&reading.log()).iter().any(|epoch| *epoch > 0));
    reader.kill().unwrap();
    reader.wait().unwrap();
    send(2_000);
    let mut reader = reading.start(&["--workers", "2"]);
    let all = send(2_000);

    let of = |k: i64| (0..all).filter(move |id| id % 7 == k);
    let large: Vec<String> =
        [2, 4, 5, 6].map(|k| format!("{{\"k\":{k},\"total\":{}}}", of(k).sum::<i64>())).into();
    let mut sizes = BTreeMap::<usize, usize>::new();
    [0, 1, 2, 4, 5, 6].iter().for_each(|k| *sizes.entry(of(*k).count()).or_default() += 1);
    let sizes: Vec<String> =
        sizes.into_iter().map(|(size, keys)| format!("{{\"size\":{size},\"keys\":{keys}}}")).collect();
    assert_eq!(sizes.len(), 2, "keys of two sizes, of which some move from one to the other: {sizes:?}");
    reading.wait_until("the table's rows are committed", || {
        newest("large") == large && newest("sizes") == sizes
    });
    writer.kill().unwrap();
    writer.wait().unwrap();
    reader.kill().unwrap();
    reader.wait().unwrap();
}

/// Keys and values of other producers: names with a prefix, CSV, bytes as they are, records that are none.
#[test]
fn topics_of_the_newest_rows_are_read_as_their_producers_write_them() {
    let broker = Broker::start(2);
    let options = format!(
        "'properties.bootstrap.servers' = '{}', 'connector' = 'upsert-kafka', 'scan.bounded.mode' = 'latest-offset'",
        broker.address()
    );
    let records = |topic: &str, records: &[(Option<&str>, Option<&str>)]| {
        broker.create_topic(topic, 1);
        broker.append_keyed(topic, 0, records);
    };
    records(
        "apart",
        &[
            (Some("{\"id\":1}"), Some("{\"v\":\"a\"}")),
            (Some("{\"id\":2}"), Some("{\"v\":\"b\"}")),
            (Some("{\"id\":1}"), Some("{\"v\":\"c\"}")),
            (Some("{\"id\":2}"), None),
            (Some("{\"id\":3}"), None),
        ],
    );
    records(
        "raw",
        &[
            (Some("x"), Some("x;1,5")),
            (Some("y"), Some("y;2")),
            (Some("y"), Some("no; number")),
            (Some("x"), None),
        ],
    );
    records("keyless", &[(Some("k"), Some("k;1")), (None, Some("l;2"))]);
    let shown = |table: &str, query: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
        let output =
            command.args(["sql", "-e", &format!("{table}; {query}"), "--output", "csv"]).output().unwrap();
        let mut lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let apart = format!(
        "CREATE TABLE t (k_id INT, v STRING, at BIGINT METADATA FROM 'offset' VIRTUAL, PRIMARY KEY (k_id) NOT ENFORCED)
           WITH ({options}, 'topic' = 'apart', 'key.format' = 'json', 'value.format' = 'json',
                 'value.fields-include' = 'EXCEPT_KEY', 'key.fields-prefix' = 'k_')"
    );
    assert_eq!(shown(&apart, "SELECT k_id, v, at FROM t"), ["1,c,2", "k_id,v,at"]);
    assert_eq!(shown(&apart, "SELECT COUNT(*) AS n FROM t"), ["1", "n"]);
    let raw = |topic: &str, more: &str| {
        format!(
            "CREATE TABLE t (k STRING, v DECIMAL(3, 1), PRIMARY KEY (k) NOT ENFORCED)
               WITH ({options}, 'topic' = '{topic}', 'key.format' = 'raw', 'value.format' = 'csv', 'value.csv.field-delimiter' = ';'{more})"
        )
    };
    let skipping = raw("raw", ", 'value.csv.ignore-parse-errors' = 'true'");
    assert_eq!(shown(&skipping, "SELECT * FROM t"), ["k,v", "y,2.0"]);
    let failed = shown(&raw("raw", ""), "SELECT * FROM t").join(" ");
    assert!(
        failed.contains("the record at offset 0") && failed.contains("'value.csv.ignore-parse-errors'"),
        "{failed}"
    );
    let failed = shown(&raw("keyless", ""), "SELECT * FROM t").join(" ");
    assert!(
        failed.contains("the record at offset 1")
            && failed.contains("its key is not what 'key.format' says: it has none"),
        "{failed}"
    );
}

#[test]
fn a_row_without_a_key_is_named_with_its_cure() {
    let broker = Broker::start(2);
    broker.create_topic("events", 1);
    broker.create_topic("counts", 1);
    broker.append("events", 0, &["{\"id\": 1}".to_owned()]);
    let options = format!("'properties.bootstrap.servers' = '{}'", broker.address());
    let place = Place::new(
        1,
        &format!(
            "CREATE TABLE events (id BIGINT, k INT) WITH ({options}, 'connector' = 'kafka', 'topic' = 'events', 'format' = 'json');
CREATE TABLE counts (k INT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED)
  WITH ({options}, 'connector' = 'upsert-kafka', 'topic' = 'counts', 'key.format' = 'json', 'value.format' = 'json', 'properties.compression.type' = 'zstd');
INSERT INTO counts SELECT k, COUNT(*) FROM events GROUP BY k;"
        ),
    );

    let output = place.run(&[]);

    let text = text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("has NULL in 'k', a column of the PRIMARY KEY; leave such rows out"), "{text}");
}

#[test]
fn values_that_are_bytes_pass_through_topics_as_they_are() {
    let broker = Broker::start(2);
    ["in", "out", "keyed"].iter().for_each(|topic| broker.create_topic(topic, 1));
    broker.append_keyed(
        "in",
        0,
        &[
            (Some("1"), Some("plain")),
            (Some("2"), Some("two\nlines")),
            (None, Some("")),
            (Some("4"), None),
            (Some("5"), Some("{}")),
        ],
    );
    let options = |topic: &str, format: &str| {
        let servers = broker.address();
        format!(
            "'connector' = 'kafka', 'bootstrap.servers' = '{servers}', 'format' = '{format}', 'topic' = '{topic}'"
        )
    };
    let in_key = ", 'key.format' = 'json', 'key.fields' = 'id', 'value.fields-include' = 'EXCEPT_KEY'";
    let place = Place::new(
        1,
        &format!(
            "CREATE TABLE given (text STRING, at BIGINT METADATA FROM 'offset' VIRTUAL) WITH ({}, 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE copied (text BYTES) WITH ({});
CREATE TABLE keyed (id BIGINT, text STRING) WITH ({}{in_key});
INSERT INTO copied SELECT CAST(text AS BYTES) FROM given;
INSERT INTO keyed SELECT at, NULLIF(text, '') FROM given;",
            options("in", "raw"),
            options("out", "raw"),
            options("keyed", "raw")
        ),
    );

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    // The console shows a value with a line break as two lines, and an empty one as an empty line.
    assert_eq!(broker.committed("out", 5), ["", "lines", "plain", "two", "{}"]);
    let keyed = broker.keyed("keyed");
    let has = |key: &str, value: &str| keyed.contains(&(format!("{{\"id\":{key}}}"), value.to_owned()));
    assert!(has("0", "plain") && has("2", "null") && has("4", "{}"), "{keyed:?}");
}

#[test]
fn lines_of_csv_pass_through_topics() {
    let broker = Broker::start(2);
    broker.create_topic("lines", 1);
    broker.create_topic("out", 1);
    broker.append("lines", 0, &["1,plain,1.50".to_owned(), "2,\"a, b\",".to_owned()]);
    let options = |topic: &str| {
        let servers = broker.address();
        format!(
            "'connector' = 'kafka', 'bootstrap.servers' = '{servers}', 'format' = 'csv', 'topic' = '{topic}'"
        )
    };
    let columns = "id BIGINT, name STRING, d DECIMAL(5, 2)";
    let place = Place::new(
        1,
        &format!(
            "CREATE TABLE lines ({columns}) WITH ({}, 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE out ({columns}) WITH ({});
INSERT INTO out SELECT id + 1, name, d FROM lines;",
            options("lines"),
            options("out")
        ),
    );

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(broker.committed("out", 2), ["2,plain,1.50", "3,\"a, b\","]);
}

#[test]
fn topics_are_read_from_where_and_to_where_the_table_says() {
    let broker = Broker::start(2);
    let ids = |ids: std::ops::Range<i64>| ids.map(|id| format!("{{\"id\":{id}}}")).collect::<Vec<_>>();
    broker.create_topic("a", 2);
    broker.create_topic("b", 1);
    // The times of records are 0, 1000, 2000, … ms in each partition.
    broker.append("a", 0, &ids(0..10));
    broker.append("a", 1, &ids(10..15));
    broker.append("b", 0, &ids(20..23));
    let all = "'scan.bounded.mode' = 'latest-offset'";
    let from = |time: u32| {
        format!("'scan.startup.mode' = 'timestamp', 'scan.startup.timestamp-millis' = '{time}', {all}")
    };
    let until = |offsets: &str| {
        format!("'scan.bounded.mode' = 'specific-offsets', 'scan.bounded.specific-offsets' = '{offsets}'")
    };
    let start = |offsets: &str| {
        format!("'scan.startup.mode' = 'specific-offsets', 'scan.startup.specific-offsets' = '{offsets}'")
    };
    let cases: Vec<(&str, String, Vec<i64>)> = vec![
        ("a;b", all.to_owned(), (0..15).chain(20..23).collect()),
        ("a", from(3_000), vec![3, 4, 5, 6, 7, 8, 9, 13, 14]),
        ("a", from(8_000), vec![8, 9]),
        (
            "a",
            format!(
                "{}, {}",
                start("partition:0,offset:8"),
                until("partition:0,offset:9;partition:1,offset:2")
            ),
            vec![8, 10, 11],
        ),
        ("a", until("partition:0,offset:1"), vec![0]),
        (
            "a",
            "'scan.bounded.mode' = 'timestamp', 'scan.bounded.timestamp-millis' = '2000'".to_owned(),
            vec![0, 1, 10, 11],
        ),
    ];
    for (topics, options, expected) in cases {
        let place = Place::new(
            2,
            &format!(
                "CREATE TABLE events (id BIGINT, topic STRING METADATA VIRTUAL) WITH ('connector' = 'kafka',
  'bootstrap.servers' = '{}', 'topic' = '{topics}', 'format' = 'json', {options});
CREATE TABLE out (id BIGINT, topic STRING) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
INSERT INTO out SELECT id, topic FROM events;",
                broker.address()
            ),
        );

        let output = place.run(&[]);

        assert!(output.status.success(), "{}", text(&output));
        let topic = |id: i64| if id < 20 { "a" } else { "b" };
        let mut rows: Vec<String> =
            expected.into_iter().map(|id| format!("{{\"id\":{id},\"topic\":\"{}\"}}", topic(id))).collect();
        rows.sort();
        assert_eq!(place.rows("out"), rows, "{topics}, {options}");
    }
}

#[test]
fn topics_whose_names_match_are_read_also_those_that_come_later() {
    let broker = Broker::start(2);
    for topic in ["orders-a", "orders-b", "old-orders-a", "out"] {
        broker.create_topic(topic, 1);
    }
    let ids = |ids: std::ops::Range<i64>| ids.map(|id| format!("{{\"id\":{id}}}")).collect::<Vec<_>>();
    let options = format!(
        "'connector' = 'kafka', 'bootstrap.servers' = '{}', 'value.format' = 'json'",
        broker.address()
    );
    let place = Place::new(
        2,
        &format!(
            "CREATE TABLE orders (id BIGINT) WITH ({options}, 'topic-pattern' = 'orders-[a-z]',
  'value.json.ignore-parse-errors' = 'true', 'scan.topic-partition-discovery.interval' = '100 ms');
CREATE TABLE out (id BIGINT) WITH ({options}, 'topic' = 'out');
INSERT INTO out SELECT id FROM orders;"
        ),
    );
    broker.append("orders-a", 0, &ids(0..10));
    broker.append("old-orders-a", 0, &ids(1_000..1_010));
    let mut job = place.start(&["--workers", "2"]);
    broker.append("orders-b", 0, &[ids(10..20), vec!["no row".to_owned()]].concat());
    let written = |rows: i64| {
        place.wait_until("the rows are written", || last(&place.log(), "rows_out=") == rows);
    };
    written(20);
    for topic in ["orders-c", "orders-10"] {
        broker.create_topic(topic, 1);
        broker.append(topic, 0, &ids(20..30));
    }
    written(30);
    kill_a_worker(&place.log());
    broker.append("orders-c", 0, &ids(30..40));
    written(40);
    stop(&place, &mut job);

    let mut expected = ids(0..40);
    expected.sort();
    assert_eq!(broker.committed("out", 40), expected);
}

/// Rows are there before their checkpoint is complete; after a failure some may be there twice, and none is missing.
#[test]
fn at_least_once_rows_are_visible_at_once_and_none_is_lost() {
    // Of a level that knows no transactions of the second generation.
    let broker = Broker::start(1);
    broker.create_topic("events", 2);
    broker.create_topic("out", 2);
    let options =
        format!("'connector' = 'kafka', 'bootstrap.servers' = '{}', 'format' = 'json'", broker.address());
    let sql = format!(
        "CREATE TABLE events (id BIGINT) WITH ({options}, 'topic' = 'events');
CREATE TABLE out (id BIGINT) WITH ({options}, 'topic' = 'out', 'sink.delivery-guarantee' = 'at-least-once');
INSERT INTO out SELECT id FROM events;"
    );
    let place = Place::new(2, &sql);
    let mut ids = 0;
    let mut send = |rows: i64| {
        for partition in 0..2 {
            let all = (ids..ids + rows).filter(|id| id % 2 == i64::from(partition));
            let all: Vec<String> = all.map(|id| format!("{{\"id\":{id}}}")).collect();
            broker.append("events", partition, &all);
        }
        ids += rows;
        ids
    };
    let mut job = place.start(&["--workers", "2"]);
    let first = send(2_000);
    place.wait_until("a checkpoint covers the rows", || rows_read(&place.log()) == first);
    kill_a_worker(&place.log());
    let second = send(2_000);
    place.wait_until("a checkpoint covers the rows", || rows_read(&place.log()) == second);
    send(2_000);
    job.kill().unwrap();
    job.wait().unwrap();
    place.edit_job("interval: 300ms", "interval: 10m");
    let mut job = place.start(&["--workers", "2"]);
    let all = send(2_000);
    // No checkpoint covers them.
    let mut found = Vec::new();
    place.wait_until("all rows are visible", || {
        found = broker.committed("out", all as usize);
        found.dedup();
        found.len() == all as usize
    });
    job.kill().unwrap();
    job.wait().unwrap();
    let mut expected: Vec<String> = (0..all).map(|id| format!("{{\"id\":{id}}}")).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn times_and_headers_of_records_are_written_from_columns() {
    let broker = Broker::start(2);
    broker.create_topic("events", 1);
    broker.create_topic("out", 1);
    broker.append("events", 0, &["{\"id\": 1}".to_owned(), "{\"id\": 2}".to_owned()]);
    let options =
        format!("'connector' = 'kafka', 'bootstrap.servers' = '{}', 'format' = 'json'", broker.address());
    let place = Place::new(
        1,
        &format!(
            "CREATE TABLE events (id BIGINT, at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp')
  WITH ({options}, 'topic' = 'events', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE out (at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp', p INT METADATA FROM 'partition' VIRTUAL, id BIGINT,
  headers MAP<STRING, BYTES> METADATA) WITH ({options}, 'topic' = 'out');
INSERT INTO out SELECT at, id, MAP['of', CAST(CAST(id AS STRING) AS BYTES), 'by', CAST('millrace' AS BYTES)] FROM events;"
        ),
    );

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        broker.printed("out", &["print.timestamp=true", "print.headers=true"], 2),
        ["CreateTime:0\tof:1,by:millrace\t{\"id\":1}", "CreateTime:1000\tof:2,by:millrace\t{\"id\":2}"]
    );
    let reader = Place::new(
        1,
        &format!(
            "CREATE TABLE out (id BIGINT, headers MAP<STRING, BYTES> METADATA VIRTUAL, epoch INT METADATA FROM 'leader-epoch' VIRTUAL)
  WITH ({options}, 'topic' = 'out', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE seen (id BIGINT, of_id STRING, maker STRING, missing STRING, has_epoch BOOLEAN)
  WITH ('connector' = 'filesystem', 'path' = 'seen', 'format' = 'json');
INSERT INTO seen SELECT id, CAST(headers['of'] AS STRING), CAST(headers['by'] AS STRING), CAST(headers['x'] AS STRING), epoch >= 0
  FROM out;"
        ),
    );
    let output = reader.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let row = |id: u32| {
        format!(
            "{{\"id\":{id},\"of_id\":\"{id}\",\"maker\":\"millrace\",\"missing\":null,\"has_epoch\":true}}"
        )
    };
    assert_eq!(reader.rows("seen"), [row(1), row(2)]);
}

/// Rows of a generator are written in every way, and read again.
#[test]
fn records_pass_in_every_compression_to_the_partitions_that_are_wanted() {
    const WAYS: [(&str, &str); 7] = [
        ("none", "'properties.compression.type' = 'none'"),
        ("gzip", "'properties.compression.type' = 'gzip'"),
        ("snappy", "'properties.compression.type' = 'snappy'"),
        ("lz4", "'properties.compression.type' = 'lz4'"),
        ("zstd", "'properties.compression.type' = 'zstd'"),
        ("fixed", "'sink.partitioner' = 'fixed'"),
        ("round", "'sink.partitioner' = 'round-robin'"),
    ];
    let broker = Broker::start(2);
    let options =
        format!("'connector' = 'kafka', 'bootstrap.servers' = '{}', 'format' = 'json'", broker.address());
    let mut writing = String::from(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1',
  'fields.n.end' = '3000', 'rows-per-second' = '1000000');\n",
    );
    let mut reading = String::new();
    for (name, way) in WAYS {
        broker.create_topic(name, 3);
        let columns = "n BIGINT, words STRING";
        writing.push_str(&format!(
            "CREATE TABLE `{name}` ({columns}) WITH ({options}, 'topic' = '{name}', {way});
INSERT INTO `{name}` SELECT n, REPEAT(CAST(n AS STRING), 50) FROM numbers;\n"
        ));
        reading.push_str(&format!(
            "CREATE TABLE `{name}` ({columns}, p INT METADATA FROM 'partition' VIRTUAL)
  WITH ({options}, 'topic' = '{name}', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE `{name}_seen` (n BIGINT, is_whole BOOLEAN, p INT) WITH ('connector' = 'filesystem', 'path' = 'seen/{name}', 'format' = 'csv');
INSERT INTO `{name}_seen` SELECT n, words = REPEAT(CAST(n AS STRING), 50), p FROM `{name}`;\n"
        ));
    }
    let output = Place::new(2, &writing).run(&[]);
    assert!(output.status.success(), "{}", text(&output));

    let reader = Place::new(2, &reading);
    let output = reader.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let numbers: std::collections::BTreeSet<u32> = (1..=3000).collect();
    for (name, _) in WAYS {
        let rows = reader.rows(&format!("seen/{name}"));
        let mut partitions = [0_i32; 3];
        let mut found = std::collections::BTreeSet::new();
        for row in &rows {
            let [n, is_whole, p] = row.split(',').collect::<Vec<_>>()[..] else { panic!("{row}") };
            assert_eq!(is_whole, "true", "{name}: {row}");
            found.insert(n.parse::<u32>().unwrap());
            partitions[p.parse::<usize>().unwrap()] += 1;
        }
        assert!(rows.len() == 3000 && found == numbers, "{name}: {} rows", rows.len());
        match name {
            // A subtask writes to one partition, and there are two.
            "fixed" => {
                assert!(partitions[2] == 0 && partitions[0] > 0 && partitions[1] > 0, "{partitions:?}")
            }
            // One partition after the other, batch by batch.
            "round" => assert!(partitions.iter().filter(|rows| **rows > 0).count() > 1, "{partitions:?}"),
            _ => {}
        }
    }
}

/// Rows of a transaction that is open are read by who asks for them, and by nobody else.
#[test]
fn rows_that_are_not_committed_are_read_if_that_is_wanted() {
    let broker = Broker::start(2);
    broker.create_topic("pending", 1);
    let options =
        format!("'connector' = 'kafka', 'bootstrap.servers' = '{}', 'format' = 'json'", broker.address());
    let writer = Place::new(
        1,
        &format!(
            "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1',
  'fields.n.end' = '100000000', 'rows-per-second' = '1000');
CREATE TABLE pending (n BIGINT) WITH ({options}, 'topic' = 'pending');
INSERT INTO pending SELECT n FROM numbers;"
        ),
    );
    writer.edit_job("interval: 300ms", "interval: 1h");
    let _job = writer.start(&[]);
    let read = |isolation: &str| {
        let reader = Place::new(
            1,
            &format!(
                "CREATE TABLE pending (n BIGINT)
  WITH ({options}, 'topic' = 'pending', 'scan.bounded.mode' = 'latest-offset'{isolation});
CREATE TABLE seen (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'seen', 'format' = 'json');
INSERT INTO seen SELECT n FROM pending;"
            ),
        );
        let output = reader.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        reader.rows("seen").len()
    };
    wait_until("rows are at the broker", || read(", 'properties.isolation.level' = 'read_uncommitted'") > 0);
    assert_eq!(read(""), 0);
}

#[test]
fn partitions_that_come_later_are_read_once_through_kills() {
    let broker = Broker::start(2);
    broker.create_topic("events", 1);
    broker.create_topic("out", 1);
    let options =
        format!("'connector' = 'kafka', 'bootstrap.servers' = '{}', 'format' = 'json'", broker.address());
    let place = Place::new(
        2,
        &format!(
            "CREATE TABLE events (id BIGINT) WITH ({options}, 'topic' = 'events',
  'scan.startup.mode' = 'latest-offset', 'scan.topic-partition-discovery.interval' = '100 ms');
CREATE TABLE out (id BIGINT) WITH ({options}, 'topic' = 'out');
INSERT INTO out SELECT id FROM events;"
        ),
    );
    let ids = |ids: std::ops::Range<i64>| ids.map(|id| format!("{{\"id\":{id}}}")).collect::<Vec<_>>();
    let written = |rows: i64| {
        place.wait_until("the rows are written", || last(&place.log(), "rows_out=") == rows);
    };
    let mut job = place.start(&["--workers", "2"]);
    place.wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    broker.append("events", 0, &ids(0..10));
    written(10);
    // Two at a time, so that both subtasks find one, whoever owns which.
    broker.grow_topic("events", 5);
    for partition in 1..5 {
        broker.append("events", partition, &ids(partition as i64 * 10..partition as i64 * 10 + 10));
    }
    written(50);
    kill_a_worker(&place.log());
    broker.append("events", 4, &ids(50..55));
    written(55);
    job.kill().unwrap();
    job.wait().unwrap();

    broker.grow_topic("events", 6);
    broker.append("events", 5, &ids(55..60));
    let mut job = place.start(&[]);
    broker.append("events", 1, &ids(60..65));
    written(65);
    stop(&place, &mut job);

    let mut expected = ids(0..65);
    expected.sort();
    assert_eq!(broker.committed("out", 65), expected);
}

#[test]
fn what_kafka_knows_of_a_record_is_a_column() {
    let broker = Broker::start(2);
    broker.create_topic("events", 2);
    broker.append("events", 0, &["{\"id\": 1}".to_owned(), "no row".to_owned(), "{\"id\": 2}".to_owned()]);
    broker.append("events", 1, &["{\"id\": 3}".to_owned()]);
    let place = Place::new(
        1,
        &format!(
            "CREATE TABLE events (
  topic STRING METADATA,
  id BIGINT,
  p BIGINT METADATA FROM 'partition' VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL,
  ts TIMESTAMP(3) METADATA FROM 'timestamp',
  kind STRING METADATA FROM 'timestamp-type' VIRTUAL,
  headers MAP<STRING, BYTES> METADATA VIRTUAL,
  WATERMARK FOR ts AS ts
) WITH ('connector' = 'kafka', 'bootstrap.servers' = '{}', 'topic' = 'events', 'format' = 'json',
  'json.ignore-parse-errors' = 'true', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE out (topic STRING, id BIGINT, p BIGINT, `offset` BIGINT, kind STRING, headers INT, ts TIMESTAMP(3))
  WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
INSERT INTO out SELECT topic, id, p, `offset`, kind, CARDINALITY(headers), ts FROM events;",
            broker.address()
        ),
    );

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let row = |id, partition, offset| {
        format!(
            "{{\"topic\":\"events\",\"id\":{id},\"p\":{partition},\"offset\":{offset},\"kind\":\"CreateTime\",\"headers\":0,\"ts\":\"1970-01-01 00:00:{offset:02}\"}}"
        )
    };
    assert_eq!(place.rows("out"), [row(1, 0, 0), row(2, 0, 2), row(3, 1, 0)]);
}

/// Options of a table at a secured listener; the values of secrets are files of a folder.
fn secured(broker: &Broker, mechanism: &str, module: &str) -> String {
    format!(
        "'connector' = 'kafka', 'format' = 'json', 'bootstrap.servers' = '{}',
  'properties.security.protocol' = 'SASL_SSL', 'properties.sasl.mechanism' = '{mechanism}',
  'properties.sasl.jaas.config' = 'org.apache.kafka.common.security.{module}LoginModule required username=\"${{secret:user}}\" password=\"${{secret:kafka-password}}\";',
  'properties.ssl.truststore.type' = 'PEM', 'properties.ssl.truststore.certificates' = '${{secret:ca}}',
  'properties.ssl.keystore.certificate.chain' = '${{secret:certificate}}', 'properties.ssl.keystore.key' = '${{secret:key}}'",
        broker.secured().address
    )
}

#[test]
fn brokers_that_let_in_only_known_users_are_read_and_written() {
    let broker = Broker::start_secured();
    broker.create_topic("events", 2);
    broker.create_topic("picked", 1);
    let secrets = tempfile::tempdir().unwrap();
    let set = |name: &str, value: &str| std::fs::write(secrets.path().join(name), value).unwrap();
    set("ca", &broker.secured().authority);
    set("certificate", &broker.secured().certificate);
    let mut declared = String::from("  pipeline:\n    secrets:\n");
    for name in ["user", "kafka-password", "ca", "certificate", "key"] {
        declared.push_str(&format!("    - {{name: {name}, secretKeyRef: {{name: s, key: {name}}}}}\n"));
    }
    for (mechanism, module, (user, password)) in [
        ("SCRAM-SHA-512", "scram.Scram", SCRAM_USER),
        ("PLAIN", "plain.Plain", PLAIN_USER),
        ("SCRAM-SHA-256", "scram.Scram", SCRAM_USER),
    ] {
        let options = secured(&broker, mechanism, module);
        let sql = format!(
            "CREATE TABLE events (id BIGINT) WITH ({options}, 'topic' = 'events', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE picked (id BIGINT, mechanism STRING) WITH ({options}, 'topic' = 'picked');
INSERT INTO picked SELECT id, '{mechanism}' FROM events;"
        );
        let folder = secrets.path().display().to_string();
        let place = Place::new(2, &sql).with_env(&[("MILLRACE_SECRETS", &folder)]);
        broker.append("events", 0, &["{\"id\": 1}".to_owned()]);
        let undeclared = place.run(&[]);
        assert_eq!(undeclared.status.code(), Some(1), "{}", text(&undeclared));
        assert!(
            text(&undeclared).contains("names the secret 'user', which is not declared"),
            "{}",
            text(&undeclared)
        );
        place.edit_job("  pipeline:\n", &declared);
        let _ = std::fs::remove_file(secrets.path().join("key"));
        set("user", user);
        set("kafka-password", "wrong-password");

        // What is missing or wrong is named, and the job goes on by itself once it is right.
        let mut job = place.start(&[]);
        place.wait_until("the missing secret is named", || {
            place.log().contains("the secret 'key' cannot be read from")
        });
        set("key", &broker.secured().key);
        let refused = format!("refused the login of '{user}'");
        place.wait_until("the wrong password is named", || place.log().contains(&refused));
        set("kafka-password", password);

        assert!(job.wait().unwrap().success(), "{}", place.log());
        let log = place.log();
        for secret in [password, "wrong-password", "PRIVATE KEY"] {
            assert!(!log.contains(secret), "the log has '{secret}': {log}");
        }
    }
    let rows = broker.committed("picked", 6);
    let row = |mechanism: &str| format!("{{\"id\":1,\"mechanism\":\"{mechanism}\"}}");
    let (short, long) = (row("SCRAM-SHA-256"), row("SCRAM-SHA-512"));
    assert_eq!(rows, [row("PLAIN"), row("PLAIN"), short.clone(), short.clone(), short, long]);
}

/// Rows go out with keys of their columns, and come in again with the columns of their keys.
#[test]
fn columns_travel_in_the_keys_of_records() {
    let broker = Broker::start(2);
    for topic in ["events", "apart", "whole", "named"] {
        broker.create_topic(topic, 3);
    }
    broker.create_topic("back", 1);
    let options = |topic: &str, more: &str| {
        format!(
            "'connector' = 'kafka', 'properties.bootstrap.servers' = '{}', 'topic' = '{topic}', 'format' = 'json'{more}",
            broker.address()
        )
    };
    let apart = ", 'key.format' = 'json', 'key.fields' = 'k_id;k_name', 'key.fields-prefix' = 'k_', 'value.fields-include' = 'EXCEPT_KEY'";
    let tables = format!(
        "CREATE TABLE events (id BIGINT, k INT, name STRING) WITH ({});
CREATE TABLE apart (k_id BIGINT, v INT, k_name STRING) WITH ({});
CREATE TABLE whole (id BIGINT, k INT) WITH ({});
CREATE TABLE named (name STRING, k INT) WITH ({});
",
        options("events", ""),
        options("apart", apart),
        options("whole", ", 'key.format' = 'csv', 'key.fields' = 'id'"),
        options(
            "named",
            ", 'key.format' = 'raw', 'key.fields' = 'name', 'value.fields-include' = 'EXCEPT_KEY'"
        ),
    );
    let row = |id: i64| {
        format!(
            "{{\"id\": {id}, \"k\": {}, \"name\": {}}}",
            id % 7,
            if id % 2 == 0 { "\"é\"" } else { "null" }
        )
    };
    for partition in 0..3 {
        let ids = (0..30).filter(|id| id % 3 == i64::from(partition));
        broker.append("events", partition, &ids.map(row).collect::<Vec<_>>());
    }
    let out = Place::new(
        2,
        &format!(
            "{tables}INSERT INTO apart SELECT id, k, name FROM events;
INSERT INTO whole SELECT id, k FROM events;
INSERT INTO named SELECT name, k FROM events;"
        ),
    );
    let mut job = out.start(&[]);
    out.wait_until("the rows are written", || last(&out.log(), "rows_out=") == 90);
    stop(&out, &mut job);

    let sorted = |mut rows: Vec<(String, String)>| {
        rows.sort();
        rows
    };
    let expected = |record: &dyn Fn(i64) -> (String, String)| sorted((0..30).map(record).collect());
    let name = |id: i64| if id % 2 == 0 { "\"é\"" } else { "null" };
    assert_eq!(
        sorted(broker.keyed("apart")),
        expected(&|id| (format!("{{\"id\":{id},\"name\":{}}}", name(id)), format!("{{\"v\":{}}}", id % 7)))
    );
    assert_eq!(
        sorted(broker.keyed("whole")),
        expected(&|id| (format!("{id}"), format!("{{\"id\":{id},\"k\":{}}}", id % 7)))
    );
    // A key that is NULL is none.
    assert_eq!(
        sorted(broker.keyed("named")),
        expected(&|id| (
            (if id % 2 == 0 { "é" } else { "null" }).to_owned(),
            format!("{{\"k\":{}}}", id % 7)
        ))
    );

    let back = |from: &str, more: &str| {
        format!(
            "CREATE TABLE keyed (k_id BIGINT, v INT, k_name STRING) WITH ({});
CREATE TABLE named (name STRING, k INT) WITH ({});
CREATE TABLE back (id BIGINT, v INT, name STRING) WITH ({});
INSERT INTO back SELECT k_id, v, k_name FROM keyed;
INSERT INTO back SELECT CAST(NULL AS BIGINT), k, name FROM named WHERE name IS NULL;",
            options(from, &format!("{apart}, 'scan.bounded.mode' = 'latest-offset'{more}")),
            options(
                "named",
                ", 'key.format' = 'raw', 'key.fields' = 'name', 'value.fields-include' = 'EXCEPT_KEY', 'scan.bounded.mode' = 'latest-offset'"
            ),
            options("back", "")
        )
    };
    let output = Place::new(2, &back("apart", "")).run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let mut rows: Vec<String> =
        (0..30).map(|id| format!("{{\"id\":{id},\"v\":{},\"name\":{}}}", id % 7, name(id))).collect();
    rows.extend(
        (0..30).filter(|id| id % 2 == 1).map(|id| format!("{{\"id\":null,\"v\":{},\"name\":null}}", id % 7)),
    );
    rows.sort();
    assert_eq!(broker.committed("back", rows.len()), rows);

    // Keys of CSV are no JSON.
    let output = Place::new(1, &back("whole", "").replace("'k_id;k_name'", "'k_id'")).run(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("its key is not what 'key.format' says"), "{}", text(&output));
    let skipping = back("whole", ", 'json.ignore-parse-errors' = 'true'").replace("'k_id;k_name'", "'k_id'");
    let output = Place::new(1, &skipping).run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("records that are no rows are left out"), "{}", text(&output));
}

/// A job that reads a column of the topic, ten rows a second once it has the first ones.
fn reading_slowly(broker: &Broker, column: &str) -> Place {
    let sql = format!(
        "CREATE TABLE events ({column}) WITH ('connector' = 'kafka', 'topic' = 'events', 'format' = 'json',
           'properties.bootstrap.servers' = '{}', 'scan.rows-per-second' = '10');
         CREATE TABLE result ({column}) WITH ('connector' = 'blackhole');
         INSERT INTO result SELECT * FROM events;",
        broker.address()
    );
    Place::new(1, &sql)
}

#[test]
fn how_far_a_source_is_behind_is_told() {
    let broker = Broker::start(2);
    broker.create_topic("events", 2);
    let rows = |from: i64| (from..from + 100).map(row).collect::<Vec<_>>();
    broker.append("events", 0, &rows(0));
    broker.append("events", 1, &rows(100));
    let place = reading_slowly(&broker, "id BIGINT");
    let mut job = place.start(&[]);

    place.wait_until("one partition is read", || place.log().contains("lag 100 records"));
    place.wait_until("the other one, too", || place.log().contains("lag 0 records"));
    stop(&place, &mut job);
}

/// Rows wait in the process, and more come to the topic meanwhile.
#[test]
fn how_far_a_source_that_cannot_keep_up_is_behind_is_told() {
    let broker = Broker::start(2);
    broker.create_topic("events", 1);
    let mut random = 1_u64;
    let mut rows = || {
        let mut row = || {
            let mut text = String::new();
            while text.len() < 1_000 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(&format!("{:08x}", random >> 32));
            }
            format!("{{\"text\": \"{text}\"}}")
        };
        (0..1_000).map(|_| row()).collect::<Vec<_>>()
    };
    for _ in 0..12 {
        broker.append("events", 0, &rows());
    }
    let place = reading_slowly(&broker, "text STRING");
    let mut job = place.start(&[]);
    let behind = || {
        let log = place.log();
        let line = log.lines().rfind(|line| line.contains(" lag ")).unwrap_or_default().to_owned();
        line.split_once(" lag ").map_or(0.0, |(_, rest)| {
            let mut words = rest.split(' ');
            let number: f64 = words.next().unwrap().parse().unwrap();
            if words.next() == Some("k") { number * 1e3 } else { number }
        })
    };
    place.wait_until("it is told", || behind() > 5_000.0);
    let before = behind();

    for _ in 0..3 {
        broker.append("events", 0, &rows());
    }

    place.wait_until("what has come is told", || behind() >= before + 2_900.0);
    stop(&place, &mut job);
}

//! State in a bucket. `MILLRACE_TEST_S3` names the server's program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::broker::free_port;
use crate::harness::{Place, signal, text, wait_until};

const SQL: &str = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events' = '400000', 'splits' = '4', 'rows-per-second' = '50000');
CREATE TABLE totals (auction BIGINT, window_end TIMESTAMP(3), n BIGINT, total BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'totals', 'format' = 'json');
INSERT INTO totals SELECT bid.auction, window_end, COUNT(*), SUM(bid.price)
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND))
  WHERE event_type = 2 GROUP BY bid.auction, window_start, window_end;";

/// A server over a folder; ends with this value.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path) -> Self {
        Self::start_at(folder, free_port())
    }

    fn start_at(folder: &Path, port: u16) -> Self {
        let program = std::env::var("MILLRACE_TEST_S3")
            .expect("MILLRACE_TEST_S3 names the server; run `make test-real`");
        let process = Command::new(program)
            .args(["--port", &format!("127.0.0.1:{port}"), "posix"])
            .arg(folder)
            .env("ROOT_ACCESS_KEY", "millrace")
            .env("ROOT_SECRET_KEY", "millrace-secret")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the server answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Server { process, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A job whose state is in the bucket `state` of a server.
fn place(server: &Server, secret: &str) -> Place {
    place_of(server, secret, SQL)
}

fn place_of(server: &Server, secret: &str, sql: &str) -> Place {
    let place = Place::new(2, sql);
    let job = place.path().join("job.yaml");
    let storage = format!(
        "spec:\n  storage: {{endpoint: 'http://127.0.0.1:{}', region: us-east-1, pathStyle: true, allowHttp: true}}",
        server.port
    );
    let manifest = fs::read_to_string(&job).unwrap().replace("spec:", &storage);
    let manifest = manifest.replace("  checkpoint:\n", "  checkpoint:\n    location: s3://state/jobs\n");
    fs::write(job, manifest).unwrap();
    place.with_env(&[("AWS_ACCESS_KEY_ID", "millrace"), ("AWS_SECRET_ACCESS_KEY", secret)])
}

fn checkpoints(log: &str) -> usize {
    log.matches("checkpoint complete").count()
}

#[test]
fn state_in_a_bucket_survives_kills() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    let server = Server::start(data.path());
    let place = place(&server, "millrace-secret");
    for _ in 0..2 {
        let mut job = place.start(&["--workers", "2"]);
        wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
        job.kill().unwrap();
        job.wait().unwrap();
    }

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    assert_eq!(place.rows("totals"), straight.rows("totals"));

    // Started over, everything is written again.
    place.edit_job(", 'rows-per-second' = '50000'", "");
    let again = place.run(&["--from", "none"]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("restored_epoch=0"), "{}", text(&again));
    assert_eq!(place.rows("totals").len(), 2 * straight.rows("totals").len());
    let all = place.verb("checkpoints", &["delete", "--all"]);
    assert!(
        all.status.success() && text(&all).contains("removed the state in 's3://state/jobs"),
        "{}",
        text(&all)
    );
    assert!(text(&place.verb("checkpoints", &[])).contains("there is no checkpoint"));
}

#[test]
fn a_missing_bucket_and_a_wrong_secret_are_named() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());

    let quick = SQL.replace(", 'rows-per-second' = '50000'", "");
    let cured = place_of(&server, "millrace-secret", &quick);
    let missing = cured.run(&[]);
    let text_of_missing = text(&missing);
    assert_eq!(missing.status.code(), Some(1), "{text_of_missing}");
    for words in ["s3://state/jobs/default/job", "NoSuchBucket", "make the bucket"] {
        assert!(text_of_missing.contains(words), "{words} is not in: {text_of_missing}");
    }

    fs::create_dir(data.path().join("state")).unwrap();
    let wrong = place(&server, "guessed").run(&[]);
    let text_of_wrong = text(&wrong);
    assert_eq!(wrong.status.code(), Some(1), "{text_of_wrong}");
    assert!(text_of_wrong.contains("SignatureDoesNotMatch"), "{text_of_wrong}");
    assert!(text_of_wrong.contains("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{text_of_wrong}");

    let output = cured.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let straight = Place::new(1, &quick);
    assert!(straight.run(&[]).status.success());
    assert_eq!(cured.rows("totals"), straight.rows("totals"));
}

#[test]
fn missing_buckets_and_files_of_tables_are_named_and_the_running_job_goes_on_once_they_are_there() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    let server = Server::start(data.path());
    let sql = "
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://inputs/numbers', 'format' = 'json');
CREATE TABLE doubled (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://outputs/doubled', 'format' = 'json');
INSERT INTO doubled SELECT n * 2 FROM numbers;";
    let place = place_of(&server, "millrace-secret", sql);
    place.edit_job("spec:", "spec:\n  restart: {maxDelay: 1s}");
    let mut job = place.start(&[]);
    place.wait_until("the bucket of the source is named", || {
        place.log().contains("s3://inputs/numbers")
            && place.log().contains("make the bucket, or name one that exists")
    });
    fs::create_dir(data.path().join("inputs")).unwrap();
    place.wait_until("the missing files are named", || {
        place.log().contains("there is nothing; put files there, or correct the option 'path'")
    });
    fs::create_dir(data.path().join("inputs/numbers")).unwrap();
    fs::write(data.path().join("inputs/numbers/a.jsonl"), "{\"n\":1}\n{\"n\":2}\n").unwrap();
    place.wait_until("the bucket of the sink is named", || {
        let log = place.log();
        log.split("s3://outputs/doubled").nth(1).is_some_and(|rest| rest.contains("make the bucket"))
    });
    fs::create_dir(data.path().join("outputs")).unwrap();

    assert!(job.wait().unwrap().success(), "{}", place.log());
    let rows: Vec<String> = objects(&data.path().join("outputs/doubled")).into_values().collect();
    assert_eq!(rows, ["{\"n\":2}\n{\"n\":4}\n"]);
}

/// Visible files below a folder of the server, with their contents. It keeps what is not complete in hidden folders.
fn objects(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else {
            found.insert(path.clone(), fs::read_to_string(path).unwrap());
        }
    }
    found
}

#[test]
fn files_that_come_later_to_a_watched_bucket_are_read_once_through_kills() {
    let data = tempfile::tempdir().unwrap();
    for bucket in ["state", "inputs", "outputs"] {
        fs::create_dir(data.path().join(bucket)).unwrap();
    }
    fs::create_dir(data.path().join("inputs/numbers")).unwrap();
    let server = Server::start(data.path());
    let sql = "
CREATE TABLE numbers (n BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 's3://inputs/numbers', 'format' = 'json', 'source.monitor-interval' = '100 ms');
CREATE TABLE doubled (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://outputs/doubled', 'format' = 'json');
INSERT INTO doubled SELECT n * 2 FROM numbers;";
    let place = place_of(&server, "millrace-secret", sql);
    let rows = || -> Vec<u32> {
        let texts = objects(&data.path().join("outputs/doubled"));
        let number = |line: &str| line.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap();
        let mut rows: Vec<u32> = texts.values().flat_map(|text| text.lines().map(number)).collect();
        rows.sort_unstable();
        rows
    };
    let mut expected = Vec::new();
    for turn in 0..3 {
        let mut job = place.start(&[]);
        for file in 0..2 {
            let number = turn * 10 + file;
            let to = data.path().join(format!("inputs/numbers/{number:02}.jsonl"));
            // Whole when it is seen.
            let aside = data.path().join("aside");
            fs::write(&aside, format!("{{\"n\":{number}}}\n{{\"n\":{}}}\n", 100 + number)).unwrap();
            fs::rename(aside, to).unwrap();
            expected.extend([2 * number, 2 * (100 + number)]);
            expected.sort_unstable();
            place.wait_until("its rows are visible", || rows().len() >= expected.len());
        }
        signal(job.id(), if turn == 2 { libc::SIGINT } else { libc::SIGKILL });
        let ended = job.wait().unwrap();
        assert_eq!(ended.success(), turn == 2, "{}", place.log());
        assert_eq!(rows(), expected, "turn {turn}: {}", place.log());
    }
}

#[test]
fn files_of_partitions_in_a_bucket_hold_every_row_once() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    fs::create_dir(data.path().join("results")).unwrap();
    let server = Server::start(data.path());
    let sql = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT>)
  WITH ('connector' = 'nexmark', 'events' = '200000', 'splits' = '4', 'rows-per-second' = '50000');
CREATE TABLE bids (auction BIGINT, price BIGINT, kind STRING) PARTITIONED BY (kind)
  WITH ('connector' = 'filesystem', 'path' = 's3://results/bids', 'format' = 'json', 'sink.rolling-policy.file-size' = '64 kb');
INSERT INTO bids SELECT bid.auction, bid.price, CASE MOD(bid.auction, 2) WHEN 0 THEN 'a/b' ELSE 'c' END FROM events WHERE event_type = 2;";
    let place = place_of(&server, "millrace-secret", sql);
    let mut job = place.start(&[]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    job.kill().unwrap();
    job.wait().unwrap();
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));

    let straight = Place::new(
        1,
        &sql.replace("s3://results/bids", "bids")
            .replace("PARTITIONED BY (kind)", "")
            .replace(", 'rows-per-second' = '50000'", ""),
    );
    assert!(straight.run(&[]).status.success());
    for (kind, folder) in [("a/b", "kind=a%2Fb"), ("c", "kind=c")] {
        let files = objects(&data.path().join("results/bids").join(folder));
        let mut rows: Vec<String> = files.values().flat_map(|file| file.lines().map(str::to_owned)).collect();
        rows.sort();
        let of_kind = format!(",\"kind\":\"{kind}\"}}");
        let expected = straight.rows("bids").into_iter();
        let mut expected: Vec<String> =
            expected.filter_map(|row| Some(format!("{}}}", row.strip_suffix(&of_kind)?))).collect();
        expected.sort();
        assert!(!rows.is_empty() && rows == expected, "{kind}: {} and {}", rows.len(), expected.len());
        assert!(files.len() > checkpoints(&text(&output)) * 2, "{} files", files.len());
    }
    // The columns come back from the names of the folders.
    let table = sql.split("CREATE TABLE").nth(2).unwrap().split("INSERT").next().unwrap();
    let table = table.replace(", 'sink.rolling-policy.file-size' = '64 kb'", "");
    let back = "CREATE TABLE back (auction BIGINT, price BIGINT, kind STRING)
  WITH ('connector' = 'filesystem', 'path' = 'back', 'format' = 'json');
INSERT INTO back SELECT * FROM bids;";
    fs::remove_dir_all(data.path().join("state/jobs")).unwrap();
    let reading = place_of(&server, "millrace-secret", &format!("CREATE TABLE{table}{back}"));
    let output = reading.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(reading.rows("back") == straight.rows("bids"), "other rows");
}

#[test]
fn parquet_files_are_written_to_a_bucket_and_read_from_it() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    fs::create_dir(data.path().join("results")).unwrap();
    let server = Server::start(data.path());
    let events = "CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT>)
  WITH ('connector' = 'nexmark', 'events' = '400000', 'splits' = '4');";
    let bids = "CREATE TABLE bids (auction BIGINT, price BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 's3://results/bids', 'format' = 'parquet', 'parquet.compression' = 'UNCOMPRESSED');";
    let insert = "INSERT INTO bids SELECT bid.auction, bid.price FROM events WHERE event_type = 2;";
    let writing = place_of(&server, "millrace-secret", &format!("{events}{bids}{insert}"));
    let output = writing.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let is_there = |path: &PathBuf| fs::read(path).unwrap().starts_with(b"PAR1");
    let files = fs::read_dir(data.path().join("results/bids")).unwrap().map(|file| file.unwrap().path());
    assert!(files.filter(is_there).count() >= 2, "a file of each subtask");

    let copy = "CREATE TABLE copied (auction BIGINT, price BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'copied', 'format' = 'json');
INSERT INTO copied SELECT * FROM bids;";
    let reading = place_of(
        &server,
        "millrace-secret",
        &format!("{}{copy}", bids.replace(", 'parquet.compression' = 'UNCOMPRESSED'", "")),
    );
    fs::remove_dir_all(data.path().join("state/jobs")).unwrap();
    let output = reading.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let straight = Place::new(
        1,
        &format!(
            "{events}{}{insert}",
            bids.replace("s3://results/bids", "bids")
                .replace("parquet', 'parquet.compression' = 'UNCOMPRESSED'", "json'")
        ),
    );
    assert!(straight.run(&[]).status.success());
    let (rows, expected) = (reading.rows("copied"), straight.rows("bids"));
    assert!(rows.len() > 300_000 && rows == expected, "{} and {} rows", rows.len(), expected.len());
}

#[test]
fn files_in_a_bucket_hold_every_row_once_and_never_change() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    fs::create_dir(data.path().join("results")).unwrap();
    let server = Server::start(data.path());
    // Rows of some hundred bytes, so that files have several parts.
    let sql = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, url STRING, extra STRING>)
  WITH ('connector' = 'nexmark', 'events' = '600000', 'splits' = '4', 'rows-per-second' = '200000');
CREATE TABLE bids (auction BIGINT, price BIGINT, url STRING, extra STRING)
  WITH ('connector' = 'filesystem', 'path' = 's3://results/daily/bids', 'format' = 'json');
INSERT INTO bids SELECT bid.auction, bid.price, bid.url, bid.extra FROM events WHERE event_type = 2;";
    let place = place_of(&server, "millrace-secret", sql);
    let folder = data.path().join("results/daily/bids");
    let mut seen = BTreeMap::new();
    for round in 1..=2 {
        let mut job = place.start(&["--workers", "2"]);
        place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
        job.kill().unwrap();
        job.wait().unwrap();
        let now = objects(&folder);
        assert!(!now.is_empty(), "round {round}");
        assert!(
            seen.iter().all(|(path, content)| now.get(path) == Some(content)),
            "a visible file has changed"
        );
        seen = now;
    }

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let files = objects(&folder);
    assert!(
        seen.iter().all(|(path, content)| files.get(path) == Some(content)),
        "a visible file has changed"
    );
    assert!(files.values().all(|content| !content.is_empty()));
    let mut rows: Vec<&str> = files.values().flat_map(|content| content.lines()).collect();
    rows.sort_unstable();
    let straight =
        sql.replace(", 'rows-per-second' = '200000'", "").replace("s3://results/daily/bids", "bids");
    let straight = Place::new(1, &straight);
    assert!(straight.run(&[]).status.success());
    let expected = straight.rows("bids");
    assert_eq!(rows.len(), expected.len());
    assert!(rows.iter().eq(expected.iter()));

    // The files as input, through a kill.
    let columns = "(auction BIGINT, price BIGINT, url STRING, extra STRING)";
    let read_back = format!(
        "CREATE TABLE written {columns} WITH ('connector' = 'filesystem', 'path' = 's3://results/daily', 'format' = 'json',
           'scan.rows-per-second' = '300000');
         CREATE TABLE bids {columns} WITH ('connector' = 'filesystem', 'path' = 'bids', 'format' = 'json');
         INSERT INTO bids SELECT * FROM written;"
    );
    let reader = place_of(&server, "millrace-secret", &read_back);
    reader.edit_job("location: s3://state/jobs", "location: s3://state/readers");
    let mut job = reader.start(&["--workers", "2"]);
    reader.wait_until("two checkpoints are complete", || checkpoints(&reader.log()) >= 2);
    job.kill().unwrap();
    job.wait().unwrap();
    let output = reader.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let read = reader.rows("bids");
    assert_eq!(read.len(), expected.len());
    assert!(read == expected);

    // Another object in the place of one that is being read is noticed.
    let changing = place_of(&server, "millrace-secret", &read_back.replace("300000", "20000"));
    changing.edit_job("location: s3://state/jobs", "location: s3://state/changing");
    let mut job = changing.start(&[]);
    changing.wait_until("two checkpoints are complete", || checkpoints(&changing.log()) >= 2);
    job.kill().unwrap();
    job.wait().unwrap();
    for path in files.keys() {
        fs::write(path, "{}\n".repeat(1000)).unwrap();
    }
    let output = changing.run(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("has changed since the job began to read it"), "{}", text(&output));
}

/// Answers every request with an error until it goes away.
struct Unavailable {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Unavailable {
    fn start(port: u16) -> Self {
        let mut bound = None;
        wait_until("the port is free", || {
            bound = TcpListener::bind(("127.0.0.1", port)).ok();
            bound.is_some()
        });
        let (listener, is_over) = (bound.unwrap(), Arc::<AtomicBool>::default());
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // What the client thinks of it is the client's business.
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 65_536]);
                let _ = stream.write_all(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
            }
        });
        Unavailable { is_over, thread: Some(thread), port }
    }
}

impl Drop for Unavailable {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

#[test]
fn a_store_that_answers_errors_for_a_minute_loses_nothing_and_the_job_goes_on_by_itself() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    let server = Server::start(data.path());
    let port = server.port;
    let slow = SQL.replace("'rows-per-second' = '50000'", "'rows-per-second' = '5000'");
    let place = place_of(&server, "millrace-secret", &slow);
    let mut job = place.start(&["--workers", "2"]);
    place.wait_until("a checkpoint is complete", || checkpoints(&place.log()) >= 1);

    drop(server);
    let unavailable = Unavailable::start(port);
    let since = now();
    // No single wait lasts longer than a minute.
    for seconds in [31, 61] {
        place.wait_until("the outage is over", || now() - since > Duration::from_secs(seconds));
    }
    let log = place.log();
    for part in ["503", "s3://state/jobs/default/job", "does not work at the moment"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(job.try_wait().unwrap().is_none(), "the job has ended: {log}");
    drop(unavailable);
    let _server = Server::start_at(data.path(), port);

    assert!(job.wait().unwrap().success(), "{}", place.log());
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    assert_eq!(place.rows("totals"), straight.rows("totals"));
}

#[test]
fn a_store_that_does_not_answer_for_a_minute_loses_nothing_and_the_job_goes_on_by_itself() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    let server = Server::start(data.path());
    let slow = SQL.replace("'rows-per-second' = '50000'", "'rows-per-second' = '5000'");
    let place = place_of(&server, "millrace-secret", &slow);
    place.edit_job("checkpoint:", "checkpoint:\n    timeout: 10s");
    let mut job = place.start(&["--http", "127.0.0.1:0"]);
    place.wait_until("a checkpoint is complete", || checkpoints(&place.log()) >= 1);

    signal(server.process.id(), libc::SIGSTOP);
    let since = now();
    for seconds in [31, 61] {
        place.wait_until("the outage is over", || now() - since > Duration::from_secs(seconds));
    }
    let log = place.log();
    assert!(job.try_wait().unwrap().is_none(), "the job has ended: {log}");
    assert!(log.contains("gave up a checkpoint that took too long"), "{log}");
    assert!(!log.contains("recovering"), "rows do not wait for the store: {log}");
    signal(server.process.id(), libc::SIGCONT);

    assert!(job.wait().unwrap().success(), "{}", place.log());
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    assert_eq!(place.rows("totals"), straight.rows("totals"));
}

#[expect(clippy::disallowed_methods, reason = "the test lasts for as long as the outage that it makes")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_commit_of_uploads_that_are_complete_is_repeated_and_a_file_that_is_gone_is_named() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("state")).unwrap();
    fs::create_dir(data.path().join("results")).unwrap();
    let server = Server::start(data.path());
    let sql = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT>)
  WITH ('connector' = 'nexmark', 'events' = '300000', 'rows-per-second' = '50000');
CREATE TABLE bids (auction BIGINT, price BIGINT) WITH ('connector' = 'filesystem', 'path' = 's3://results/bids', 'format' = 'json');
INSERT INTO bids SELECT bid.auction, bid.price FROM events WHERE event_type = 2;";
    let place = place_of(&server, "millrace-secret", sql);
    let mut job = place.start(&[]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    // In good order, so that the newest checkpoint is committed.
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success());
    // As if the process had died between the completion of the uploads and the mark that says so.
    let commits = data.path().join("state/jobs/default/job/commits");
    let unmark = || {
        let newest = fs::read_dir(&commits).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        fs::remove_file(&newest).unwrap();
    };
    let folder = data.path().join("results/bids");

    unmark();
    let before = objects(&folder);
    let mut job = place.start(&[]);
    place.wait_until("a checkpoint is complete", || checkpoints(&place.log()) >= 1);
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success());
    let after = objects(&folder);
    assert!(before.iter().all(|(path, content)| after.get(path) == Some(content)), "a file has changed");

    unmark();
    let newest = after.keys().max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    fs::remove_file(newest).unwrap();
    let refused = place.run(&[]);
    let name = newest.file_name().unwrap().to_str().unwrap();
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains(name) && said.contains("is gone with its"), "{said}");

    fs::write(newest, &after[newest]).unwrap();
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let files = objects(&folder);
    let mut rows: Vec<&str> = files.values().flat_map(|content| content.lines()).collect();
    rows.sort_unstable();
    let straight = sql.replace(", 'rows-per-second' = '50000'", "").replace("s3://results/bids", "bids");
    let straight = Place::new(1, &straight);
    assert!(straight.run(&[]).status.success());
    assert!(rows.iter().eq(straight.rows("bids").iter()));
}

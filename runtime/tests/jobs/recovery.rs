//! Processes are killed while a job runs; its output equals that of an undisturbed run.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use millrace::checkpoint::paths;
use millrace::checkpoint::records::{self, Manifest};
use millrace::fault::{CRASH_AT, CrashPoint};

use super::harness::{Place, signal, text, wait_until};

pub const SQL: &str = "
CREATE TABLE events (
  event_type INT,
  bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>,
  ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events' = '400000', 'splits' = '4', 'rows-per-second' = '50000');
CREATE VIEW bids AS SELECT bid.auction, bid.price, ts FROM events WHERE event_type = 2;
CREATE TABLE picked (auction BIGINT, price BIGINT) WITH ('connector' = 'filesystem', 'path' = 'picked', 'format' = 'json');
CREATE TABLE totals (auction BIGINT, window_end TIMESTAMP(3), n BIGINT, total BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'totals', 'format' = 'json');
INSERT INTO picked SELECT auction, price FROM bids WHERE MOD(auction, 10) = 0;
INSERT INTO totals SELECT auction, window_end, COUNT(*), SUM(price)
  FROM TABLE(HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '3' SECOND))
  GROUP BY auction, window_start, window_end;";

/// A process that says nothing for so long is taken for lost.
const SILENCE: Duration = Duration::from_secs(5);

/// The output of an undisturbed run, as fast as it goes.
fn straight() -> (Vec<String>, Vec<String>) {
    undisturbed(SQL)
}

pub fn undisturbed(sql: &str) -> (Vec<String>, Vec<String>) {
    let place = Place::new(2, &sql.replace(", 'rows-per-second' = '50000'", ""));
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    (place.rows("picked"), place.rows("totals"))
}

pub fn checkpoints(log: &str) -> usize {
    log.matches("checkpoint complete").count()
}

/// Process ids of the workers, in the order they were started.
fn workers(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once("started a worker process process="));
    lines.map(|(_, process)| process.trim().to_owned()).collect()
}

fn kill_9(process: &str) {
    signal(process.parse().unwrap(), libc::SIGKILL);
}

pub fn restored_epochs(log: &str) -> Vec<u64> {
    let lines = log.lines().filter_map(|line| line.split_once("restored_epoch="));
    lines.map(|(_, rest)| rest.split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn killed_workers_change_nothing_in_the_output() {
    let place = Place::new(4, SQL);
    let mut job = place.start(&["--workers", "2"]);
    for _ in 0..2 {
        let before = checkpoints(&place.log());
        wait_until("two more checkpoints are complete", || checkpoints(&place.log()) >= before + 2);
        kill_9(workers(&place.log()).last().unwrap());
        let generations = restored_epochs(&place.log()).len();
        wait_until("a new generation leads", || restored_epochs(&place.log()).len() > generations);
    }

    assert!(job.wait().unwrap().success(), "{}", place.log());

    let restored = restored_epochs(&place.log());
    assert!(restored.len() >= 3 && restored[1..].iter().all(|epoch| *epoch > 0), "{restored:?}");
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
    // The worker that lives fetches nothing, and the new one what was lost.
    let mut deployed = deployed(&place.log());
    // Both INSERTs read the events in one task a slot, of which a worker has two; windows are in another one.
    assert!(
        place.log().lines().filter(|line| line.contains(" deployed ")).all(|line| line.contains("tasks=4"))
    );
    let mut whole = 0;
    for (generation, _) in (1..).zip(&restored).skip(1) {
        let of_generation = deployed.remove(&generation).unwrap_or_default();
        if of_generation.len() < 2 && generation < restored.len() as u64 {
            // The same death was noticed once more before both had begun, and another generation took over at once.
            continue;
        }
        whole += 1;
        let survivors = of_generation.iter().filter(|(rolled_back, _)| *rolled_back > 0).count();
        assert!(survivors == 1 && of_generation.len() == 2, "{generation}: {of_generation:?}");
        for (rolled_back, segments) in of_generation {
            assert_eq!(rolled_back == 0, segments > 0, "{generation}: {rolled_back} {segments}");
        }
    }
    assert!(whole >= 2, "{}", place.log());
}

/// By generation, for each worker: of how many subtasks the state was still in memory, and how many segments were fetched.
fn deployed(log: &str) -> BTreeMap<u64, Vec<(u64, u64)>> {
    let mut deployed: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" deployed ")) {
        let number = |name: &str| {
            let (_, rest) = line.split_once(name).unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        let figures = (number("rolled_back="), number("segments="));
        deployed.entry(number("generation=")).or_default().push(figures);
    }
    deployed
}

#[test]
fn everything_killed_at_once_goes_on_with_another_parallelism() {
    let place = Place::new(2, SQL);
    let mut seen = Vec::new();
    for (turn, parallelism) in [2, 5, 1].into_iter().enumerate() {
        place.set_job(parallelism, SQL);
        let mut job = place.start(&[]);
        wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
        job.kill().unwrap();
        job.wait().unwrap();
        assert_eq!(restored_epochs(&place.log())[0] > 0, turn > 0, "{}", place.log());
        // What was visible once stays.
        let files = [place.files("picked"), place.files("totals")].concat();
        let missing: Vec<_> = seen.iter().filter(|file| !files.contains(file)).collect();
        assert!(missing.is_empty(), "{missing:?} disappeared");
        seen = files;
    }
    place.set_job(3, SQL);

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
    let again = place.run(&[]);
    assert!(
        text(&again).contains("finished at") && text(&again).contains("--from none starts over"),
        "{}",
        text(&again)
    );
}

/// Crash points of a run that no transaction has to do with, every other one.
fn crash_points(first: usize) -> impl Iterator<Item = CrashPoint> {
    let others = [CrashPoint::TransactionCommitted, CrashPoint::RecordsErased];
    let points = CrashPoint::ALL.iter().copied().filter(move |point| !others.contains(point));
    points.skip(first).step_by(2)
}

/// Of each job a checkpoint is complete and not committed when it starts again, and then one of its processes dies at the point.
fn a_crash_changes_nothing(point: CrashPoint) {
    let sql = SQL.replace("'400000'", "'100000'");
    let place = Place::new(2, &sql);
    let crashed = place.start_crashing(CRASH_AT, "record-written:2").wait().unwrap();
    assert!(!crashed.success(), "{}", place.log());
    let mark = place.path().join("mark");
    let at = format!("{}@{}", point.name(), mark.display());

    let first = place.start_with(&["--workers", "2"], CRASH_AT, &at).wait().unwrap();

    assert!(mark.exists(), "{} was not reached: {}", point.name(), place.log());
    assert!(restored_epochs(&place.log()).iter().all(|epoch| *epoch > 0), "{}", place.log());
    // Without a worker the others go on.
    let of_worker = [CrashPoint::TasksDeployed, CrashPoint::SinksPrepared, CrashPoint::StateStored];
    assert_eq!(first.success(), of_worker.contains(&point), "{}: {}", point.name(), place.log());
    let output = place.run(&["--workers", "2"]);
    assert!(output.status.success(), "{}: {}", point.name(), text(&output));
    let rows = (place.rows("picked"), place.rows("totals"));
    assert!(rows == undisturbed(&sql), "{}: {} and {} rows", point.name(), rows.0.len(), rows.1.len());
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_changes_nothing_0() {
    crash_points(0).for_each(a_crash_changes_nothing);
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_changes_nothing_1() {
    crash_points(1).for_each(a_crash_changes_nothing);
}

#[test]
fn only_the_objects_of_kept_checkpoints_stay() {
    let place = Place::new(2, SQL);
    place.edit_job("interval: 300ms", "interval: 50ms\n    retain: 2");
    let mut job = place.start(&["--workers", "2"]);
    let state = place.path().join(".millrace/default/job");
    let count = |folder: &str| std::fs::read_dir(state.join(folder)).map_or(0, Iterator::count);
    wait_until("many checkpoints are complete", || checkpoints(&place.log()) >= 20);
    wait_until("few of them are left", || (1..10).contains(&count("manifests")) && count("floors") == 1);
    assert!(count("epochs") < 10 && count("commits") < 10, "{} {}", count("epochs"), count("commits"));
    job.kill().unwrap();
    job.wait().unwrap();

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
    // And nothing is there that the table of objects does not name.
    let table = include_str!("../../../docs/internals/checkpoints.md");
    let is_named = |key: &str| table.contains(&format!("\n| `{key}"));
    let entries: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(entries.len() > 5, "{entries:?}");
    for entry in entries {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        match entry.is_dir() {
            true => assert!(
                is_named(&format!("{name}/")) || std::fs::read_dir(&entry).unwrap().count() == 0,
                "{name}"
            ),
            false => assert!(is_named(&format!("{name}`")), "{name}"),
        }
    }
}

#[test]
fn an_interrupted_job_takes_a_last_checkpoint_and_goes_on() {
    goes_on_after(libc::SIGINT);
    goes_on_after(libc::SIGTERM);
}

fn goes_on_after(stop: i32) {
    let place = Place::new(2, SQL);
    let mut job = place.start(&[]);
    wait_until("a checkpoint is complete", || checkpoints(&place.log()) >= 1);
    signal(job.id(), stop);
    assert!(job.wait().unwrap().success(), "{}", place.log());
    let stopped = place.rows("picked").len();

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(stopped > 0 && stopped < place.rows("picked").len());
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
}

#[test]
fn a_run_that_is_asked_over_http_to_stop_takes_a_last_checkpoint_and_goes_on() {
    let place = Place::new(2, &SQL.replace("'400000'", "'100000'"));
    let mut run = place.start(&["--http", "127.0.0.1:0"]);
    place.wait_until("a checkpoint is complete", || checkpoints(&place.log()) > 0);
    let log = place.log();
    let http = log.split_once("serving HTTP address=").unwrap().1.lines().next().unwrap().trim();
    let known = job(http)["lastCheckpoint"]["epoch"].as_u64().unwrap();

    assert_eq!(ask(http, "POST", "/api/v1/job/stop").0, 202);

    assert!(run.wait().unwrap().success(), "{}", place.log());
    assert!(place.out().contains("stopped; the next run goes on from here"), "{}", place.out());
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output))[0] > known, "{}", text(&output));
    assert_eq!(
        (place.rows("picked"), place.rows("totals")),
        undisturbed(&SQL.replace("'400000'", "'100000'"))
    );
}

#[test]
fn a_second_signal_ends_a_run_at_once_and_loses_nothing_and_meanwhile_it_tells_how_it_fares() {
    let place = Place::new(2, SQL);
    let mut run = place.start(&["--http", "127.0.0.1:0", "--log-format", "json"]);
    place.wait_until("a checkpoint is complete", || checkpoints(&place.log()) > 0);
    let log = place.log();
    let (_, rest) = log.split_once(r#""message":"serving HTTP","address":""#).unwrap();
    let http = rest.split('"').next().unwrap();
    wait_until("rows are counted", || job(http)["totals"]["rowsIn"].as_u64() > Some(0));
    assert_eq!((get(http, "/metrics"), get(http, "/readyz")), (200, 200));
    place.wait_until("progress is a record of the log", || {
        let is_progress = |line: &str| -> bool {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["fields"]["phase"] == "Running" && record["fields"]["rows_in"].as_u64() > Some(0)
        };
        // The last line may still be written.
        place.log().lines().rev().skip(1).any(is_progress)
    });

    // A last checkpoint cannot be taken, so that the first signal alone does not end it.
    let manifests = place.path().join(".millrace/default/job/manifests");
    fs::rename(&manifests, manifests.with_extension("aside")).unwrap();
    fs::write(&manifests, "in the way").unwrap();
    signal(run.id(), libc::SIGINT);
    place.wait_until("it stops", || place.log().contains("Ctrl-C again stops at once"));
    wait_until("the checkpoint that has failed is counted", || {
        figure(http, "millrace_checkpoint_failures_total") > 0.0
    });
    let failing = job(http);
    assert!(failing["failedCheckpoints"].as_u64() > Some(0), "{failing:#}");
    let why = failing["lastCheckpointFailure"].as_str().unwrap_or_default();
    assert!(why.contains("manifests/"), "{failing:#}");
    signal(run.id(), libc::SIGTERM);

    let ended = run.wait().unwrap();
    assert_eq!(ended.code(), Some(143), "{ended:?}: {}", place.log());
    fs::remove_file(&manifests).unwrap();
    fs::rename(manifests.with_extension("aside"), &manifests).unwrap();
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output))[0] > 0, "{}", text(&output));
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
}

/// Files are in folders by the values of columns, several in one folder and checkpoint, and hold every row once through kills.
#[test]
fn files_of_partitions_hold_every_row_once_through_kills() {
    const SQL: &str = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>)
  WITH ('connector' = 'nexmark', 'events' = '300000', 'splits' = '4', 'rows-per-second' = '50000');
CREATE TABLE bids (day_of DATE, auction BIGINT, kind STRING, price BIGINT) PARTITIONED BY (kind, day_of)
  WITH ('connector' = 'filesystem', 'path' = 'bids', 'format' = 'json', 'sink.rolling-policy.file-size' = '16 kb');
INSERT INTO bids SELECT CAST(bid.`dateTime` AS DATE), bid.auction,
  CASE MOD(bid.auction, 4) WHEN 0 THEN 'a/b' WHEN 1 THEN 'c' WHEN 2 THEN '' END, bid.price
  FROM events WHERE event_type = 2;";
    let place = Place::new(2, SQL);
    let mut job = place.start(&["--workers", "2"]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    kill_9(&workers(&place.log())[0]);
    place.wait_until("it goes on", || restored_epochs(&place.log()).iter().any(|epoch| *epoch > 0));
    place.wait_until("some checkpoints are complete", || checkpoints(&place.log()) >= 5);
    job.kill().unwrap();
    job.wait().unwrap();
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));

    let in_one = SQL
        .replace(", 'rows-per-second' = '50000'", "")
        .replace("PARTITIONED BY (kind, day_of)", "")
        .replace("16 kb", "1 GB");
    let straight = Place::new(1, &in_one);
    assert!(straight.run(&[]).status.success());
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in straight.rows("bids") {
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        let kind = match row["kind"].as_str() {
            None | Some("") => "__DEFAULT_PARTITION__",
            Some("a/b") => "a%2Fb",
            Some(kind) => kind,
        };
        let folder = format!("bids/kind={kind}/day_of={}", row["day_of"].as_str().unwrap());
        let rest = format!("{{\"auction\":{},\"price\":{}}}", row["auction"], row["price"]);
        expected.entry(folder).or_default().push(rest);
    }
    assert!(expected.len() >= 3, "{:?}", expected.keys());
    let entries = |path: &str| -> usize { fs::read_dir(place.path().join(path)).unwrap().count() };
    assert_eq!(entries("bids"), 3);
    for (folder, mut rows) in expected {
        rows.sort();
        assert!(place.rows(&folder) == rows, "{folder}");
        // What was not committed is gone, and a checkpoint has ended several files of two writers.
        let files = place.files(&folder);
        assert_eq!(files.len(), entries(&folder), "{folder}");
        assert!(files.iter().any(|file| file.to_string_lossy().ends_with("-1")), "{files:?}");
        assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() < 512 << 10));
    }
    // Another table reads the columns from the folders again; what has no name comes back as NULL.
    let table = SQL.split("INSERT").next().unwrap().split("CREATE TABLE bids").nth(1).unwrap();
    let back = format!(
        "CREATE TABLE bids{}CREATE TABLE back (day_of DATE, auction BIGINT, kind STRING, price BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'back', 'format' = 'json');
INSERT INTO back SELECT * FROM bids;",
        table
            .replace("'bids'", &format!("'{}'", place.path().join("bids").display()))
            .replace(", 'sink.rolling-policy.file-size' = '16 kb'", "")
    );
    let reading = Place::new(2, &back);
    let output = reading.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let mut expected: Vec<String> =
        straight.rows("bids").iter().map(|row| row.replace("\"kind\":\"\"", "\"kind\":null")).collect();
    expected.sort();
    assert!(reading.rows("back") == expected, "other rows");
}

/// Files of columns are written by one job and read by another one, both through kills.
#[test]
fn parquet_files_hold_every_row_once_and_are_read_once_through_kills() {
    const SQL: &str = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>)
  WITH ('connector' = 'nexmark', 'events' = '250000', 'splits' = '4', 'rows-per-second' = '50000');
CREATE TABLE bids (auction BIGINT, bid ROW<price BIGINT, at TIMESTAMP(3)>)
  WITH ('connector' = 'filesystem', 'path' = 'bids', 'format' = 'parquet', 'sink.rolling-policy.file-size' = '128 kb');
INSERT INTO bids SELECT bid.auction, ROW(bid.price, bid.`dateTime`) FROM events WHERE event_type = 2;";
    let through_kills = |place: &Place| {
        let mut job = place.start(&["--workers", "2"]);
        place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
        kill_9(&workers(&place.log())[0]);
        place.wait_until("it goes on", || restored_epochs(&place.log()).iter().any(|epoch| *epoch > 0));
        place.wait_until("some checkpoints are complete", || checkpoints(&place.log()) >= 4);
        job.kill().unwrap();
        job.wait().unwrap();
        let output = place.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        let log = text(&output);
        assert!(restored_epochs(&log).iter().any(|epoch| *epoch > 0), "nothing was restored: {log}");
    };
    let writing = Place::new(2, SQL);
    through_kills(&writing);
    let files = writing.files("bids");
    assert!(files.len() > 10, "{files:?}");

    let bids = writing.path().join("bids");
    let reading = Place::new(
        2,
        &format!(
            "CREATE TABLE bids (auction BIGINT, bid ROW<price BIGINT, at TIMESTAMP(3)>, size BIGINT METADATA FROM 'file.size' VIRTUAL)
  WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'parquet', 'scan.rows-per-second' = '50000');
CREATE TABLE copied (auction BIGINT, price BIGINT, at TIMESTAMP(3))
  WITH ('connector' = 'filesystem', 'path' = 'copied', 'format' = 'json');
INSERT INTO copied SELECT auction, bid.price, bid.at FROM bids WHERE size > 0;",
            bids.display()
        ),
    );
    through_kills(&reading);

    let straight = SQL
        .replace(", 'rows-per-second' = '50000'", "")
        .replace(
            "(auction BIGINT, bid ROW<price BIGINT, at TIMESTAMP(3)>)",
            "(auction BIGINT, price BIGINT, at TIMESTAMP(3))",
        )
        .replace("ROW(bid.price, bid.`dateTime`)", "bid.price, bid.`dateTime`")
        .replace("parquet", "json");
    let straight = Place::new(1, &straight);
    assert!(straight.run(&[]).status.success());
    let (rows, expected) = (reading.rows("copied"), straight.rows("bids"));
    assert_eq!(rows.len(), expected.len());
    assert!(rows == expected, "other rows");
}

/// Two pods of one attempt, as while a node is cut off: the one that has lost the job stays, and keeps quiet.
#[test]
fn a_coordinator_that_was_fenced_stays_and_answers_nothing_but_that_it_lives() {
    let place = Place::new(1, &SQL.replace("'rows-per-second' = '50000'", "'rows-per-second' = '1000'"));
    let coordinator = |log: &str| {
        let arguments = ["--uid", "one", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        place.start_role("coordinator", &arguments, log)
    };
    let log = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let after = |mark: &str| {
        let log = log("first");
        let found = log.split_once(mark).and_then(|(_, rest)| rest.lines().next());
        found.unwrap_or_else(|| panic!("no {mark}: {log}")).trim().to_owned()
    };
    let mut first = coordinator("first");
    wait_until("it leads", || {
        log("first").contains("leading the job") && log("first").contains("serving HTTP")
    });
    let workers = format!("127.0.0.1:{}", after("taking registrations of workers port="));
    let http = after("serving HTTP address=");
    let arguments = [
        "--uid",
        "one",
        "--coordinator",
        &workers,
        "--listen",
        "127.0.0.1:0",
        "--host",
        "127.0.0.1",
        "--http",
        "127.0.0.1:0",
    ];
    let _worker = place.start_role("worker", &arguments, "worker");
    wait_until("a checkpoint is complete", || log("first").contains("checkpoint complete"));
    let of_worker = log("worker");
    let of_worker = of_worker.split_once("serving HTTP address=").unwrap().1.lines().next().unwrap().trim();
    for name in ["rows_in", "bytes_in", "rows_out", "bytes_out"] {
        let name = format!("millrace_task_operator_{name}_total");
        wait_until(&name, || figure(of_worker, &name) > 0.0);
    }
    assert!(["/livez", "/readyz", "/report", "/metrics"].iter().all(|path| get(&http, path) == 200));

    // Figures come with heartbeats.
    wait_until("rows are counted", || job(&http)["totals"]["rowsIn"].as_u64() > Some(0));
    let seen = job(&http);
    assert_eq!(seen["phase"], "Running", "{seen:#}");
    wait_until("rates are known", || {
        job(&http)["totals"]["rowsInPerSecond"].as_f64().is_some_and(|rate| rate > 0.0)
    });
    let checkpoints = seen["checkpoints"].as_array().unwrap();
    assert_eq!(checkpoints[0], seen["lastCheckpoint"], "{seen:#}");
    let operators = seen["graph"]["operators"].as_array().unwrap();
    assert!(operators.iter().any(|operator| operator["id"] == "totals/bids/hop"), "{seen:#}");
    let of_operator = |id: &str, figure: &str| {
        let operators = job(&http)["operators"].as_array().unwrap().clone();
        operators.iter().find(|operator| operator["id"] == id).unwrap()[figure].as_u64().unwrap()
    };
    wait_until("windows have given rows", || of_operator("totals/bids/hop", "rowsOut") > 0);
    for (id, figure) in [
        ("picked/events/source", "rowsOut"),
        ("totals/bids/hop-local", "rowsIn"),
        ("totals/bids/hop", "bytesIn"),
        ("totals/bids/hop", "stateBytes"),
        ("totals/totals/sink", "rowsIn"),
    ] {
        assert!(of_operator(id, figure) > 0, "{id} {figure}: {:#}", job(&http)["operators"]);
    }
    let tasks = seen["tasks"].as_array().unwrap();
    assert!(tasks.len() >= 2 && tasks.iter().all(|task| task["subtask"] == 0), "{seen:#}");

    for name in ["duration_seconds", "bytes", "rows_in", "epoch", "age_seconds"] {
        assert!(figure(&http, &format!("millrace_checkpoint_{name}")) > 0.0, "{name}");
    }
    wait_until("windows have fired", || job(&http)["totals"]["watermarkMs"].as_i64() > Some(0));
    // Its events are of years ago.
    let year = 365.0 * 86_400.0;
    assert!(figure(&http, "millrace_job_watermark_lag_seconds") > year);

    // A thousand events a second leave the tasks idle most of the time.
    let spent = |task: &serde_json::Value, how: &str| task[how].as_u64().unwrap();
    assert!(tasks.iter().all(|task| spent(task, "idleMs") > spent(task, "busyMs")), "{seen:#}");

    let (status, saved) = ask(&http, "POST", "/api/v1/job/savepoints");
    assert_eq!(status, 201, "{saved}");
    let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
    assert!(saved["epoch"].as_u64() > seen["lastCheckpoint"]["epoch"].as_u64(), "{saved} after {seen:#}");
    let location = place.path().join(saved["location"].as_str().unwrap());
    let other = Place::new(2, SQL);
    let output = other.run(&["--from", &location.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    let (rows, all) = (other.rows("picked"), straight().0);
    assert!(!rows.is_empty() && rows.len() < all.len(), "{} of {} rows", rows.len(), all.len());
    assert!(rows.iter().all(|row| all.binary_search(row).is_ok()));

    let _second = coordinator("second");
    wait_until("the first one notices", || log("first").contains("waiting for as long as it does"));

    assert_eq!(get(&http, "/livez"), 200);
    for path in ["/readyz", "/report", "/metrics", "/api/v1/job"] {
        assert_eq!(get(&http, path), 503, "{path}");
    }
    assert!(first.try_wait().unwrap().is_none(), "{}", log("first"));
}

/// Many keys, of which few change: what does not change is not written again, and what does is merged into few runs.
#[test]
fn changes_are_merged_and_what_does_not_change_is_written_once() {
    const SQL: &str = "
CREATE TABLE events (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '20000',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '59999');
CREATE TABLE counts (k BIGINT, n BIGINT, total BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO counts SELECT k, COUNT(*), SUM(n) FROM
  (SELECT n, CASE WHEN n < 20000 THEN n ELSE MOD(n, 100) END AS k FROM events) AS keyed GROUP BY k;";
    let checksums = |printed: &str| -> Vec<String> {
        printed.lines().filter(|line| line.contains("checksum of counts.")).map(str::to_owned).collect()
    };
    let straight = Place::new(2, &SQL.replace("'20000'", "'10000000'"));
    let output = straight.run(&[]);
    let expected = checksums(&text(&output));
    assert_eq!(expected.len(), 3, "{}", text(&output));

    let place = Place::new(2, SQL);
    place.edit_job("interval: 300ms", "interval: 20ms");
    let mut run = place.start_crashing("MILLRACE_TEST_CRASH_AFTER_ROWS", "55000");
    assert!(!run.wait().unwrap().success());

    let manifests = place.path().join(".millrace/default/job/manifests");
    let newest = std::fs::read_dir(manifests).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let manifest: Manifest = records::decode(&std::fs::read(newest).unwrap()).unwrap();
    let groups =
        manifest.subtasks.iter().flat_map(|state| &state.tables).filter(|table| table.table == "groups");
    let mut count = 0;
    for table in groups {
        count += 1;
        let epochs: Vec<u64> =
            table.runs.iter().map(|run| paths::epoch_of(&run.segment, paths::SEGMENTS).unwrap().0).collect();
        // Everything once, at most eight merged twice, once, and not at all.
        assert!((2..=18).contains(&epochs.len()) && epochs.is_sorted(), "{epochs:?}");
        assert!(
            epochs[0] + 10 < manifest.epoch,
            "everything was written again: {epochs:?} of {}",
            manifest.epoch
        );
        assert!(table.runs[0].rows > 5_000, "{table:?}");
    }
    assert_eq!(count, 2);

    let again = place.run(&[]);
    assert_eq!(checksums(&text(&again)), expected, "{}", text(&again));
}

/// A coordinator is replaced by another one of the same attempt: workers keep their slots, and the state that they have in memory.
#[test]
fn workers_keep_their_slots_and_their_state_under_a_new_coordinator() {
    let place = Place::new(2, &SQL.replace("'rows-per-second' = '50000'", "'rows-per-second' = '2000'"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let coordinator = |log: &str| {
        let arguments = ["--uid", "one", "--listen", &address, "--http", "127.0.0.1:0"];
        place.start_role("coordinator", &arguments, log)
    };
    let log = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let worker = |name: &str| {
        let to = ["--coordinator", &address, "--listen", "127.0.0.1:0", "--host", "127.0.0.1"];
        place.start_role("worker", &[&["--uid", "one", "--slots", "1"], &to[..]].concat(), name)
    };
    let deployed = |name: &str, generation: u32| {
        let log = log(name);
        let sign = format!("deployed generation={generation} ");
        let line = log.lines().find(|line| line.contains(&sign)).unwrap_or_else(|| panic!("{name}: {log}"));
        let figure = |figure: &str| line.split(figure).nth(1).unwrap().split(' ').next().unwrap().to_owned();
        [figure("slots="), figure("rolled_back="), figure("segments=")]
    };
    let mut first = coordinator("first");
    let _workers = [worker("a"), worker("b")];
    wait_until("two checkpoints are complete", || log("first").matches("checkpoint complete").count() >= 2);

    first.kill().unwrap();
    first.wait().unwrap();
    let _second = coordinator("second");
    wait_until("the job runs again", || log("second").contains("running generation=2"));

    for name in ["a", "b"] {
        let [slots, rolled_back, segments] = deployed(name, 1);
        assert_eq!((rolled_back.as_str(), segments.as_str()), ("0", "0"), "{name}: {}", log(name));
        let again = deployed(name, 2);
        assert_eq!(again[0], slots, "{name}: {}", log(name));
        assert!(again[1] != "0" && again[2] == "0", "{name} has fetched state: {}", log(name));
    }
    assert!(deployed("a", 1)[0] != deployed("b", 1)[0]);
}

/// The status of an answer.
fn get(address: &str, path: &str) -> u16 {
    ask(address, "GET", path).0
}

fn job(address: &str) -> serde_json::Value {
    serde_json::from_str(&ask(address, "GET", "/api/v1/job").1).unwrap()
}

/// What all series of a metric add up to; nothing if there are none.
fn figure(address: &str, name: &str) -> f64 {
    let metrics = ask(address, "GET", "/metrics").1;
    let of_name = |line: &&str| line.split_once('{').is_some_and(|(found, _)| found == name);
    metrics.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// The status of an answer, and what it says.
fn ask(address: &str, method: &str, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// It is taken for lost, ended and replaced.
#[test]
fn a_worker_that_was_paused_for_longer_than_its_heartbeats_is_replaced() {
    let place = Place::new(2, SQL);
    let mut job = place.start(&["--workers", "2"]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    let paused: u32 = workers(&place.log())[0].parse().unwrap();

    signal(paused, libc::SIGSTOP);
    place.wait_until("the others go on without it", || {
        let log = place.log();
        log.split("running generation=2").nth(1).is_some_and(|after| checkpoints(after) >= 2)
    });

    assert!(place.log().contains("does not answer any more, and is ended"), "{}", place.log());
    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert!(restored_epochs(&place.log()).iter().any(|epoch| *epoch > 0), "{}", place.log());
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
}

/// Its place was given to another one meanwhile: what it goes on with, from where it was stopped, reaches nobody.
#[test]
fn a_worker_that_wakes_up_after_it_was_replaced_adds_nothing() {
    let place = Place::new(1, &SQL.replace("'400000'", "'1000000'"));
    let log = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let arguments = ["--uid", "one", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let _coordinator = place.start_role("coordinator", &arguments, "first");
    let mark = "taking registrations of workers port=";
    wait_until("it takes workers", || log("first").contains(mark));
    let port = log("first").split(mark).nth(1).unwrap().lines().next().unwrap().trim().to_owned();
    let worker = |name: &str| {
        let address = format!("127.0.0.1:{port}");
        let to = ["--coordinator", &address, "--listen", "127.0.0.1:0", "--host", "127.0.0.1"];
        place.start_role("worker", &[&["--uid", "one", "--slots", "1"], &to[..]].concat(), name)
    };
    let woken = worker("a");
    wait_until("two checkpoints are complete", || checkpoints(&log("first")) >= 2);
    let _spare = worker("b");
    wait_until("another worker waits", || log("first").matches("a worker has registered").count() >= 2);

    signal(woken.id(), libc::SIGSTOP);
    let again = "running generation=2";
    wait_until("the other one goes on", || {
        log("first").split(again).nth(1).is_some_and(|after| checkpoints(after) >= 1)
    });
    assert!(log("b").contains("deployed generation=2"), "{}", log("b"));
    let known = log("a").len();
    signal(woken.id(), libc::SIGCONT);

    wait_until("it notices", || log("a")[known..].contains("coordinator"));
    wait_until("the job has ended", || log("first").contains("the job has ended"));
    assert!(!log("first").contains("generation=3"), "{}", log("first"));
    let sql = SQL.replace("'400000'", "'1000000'");
    assert!((place.rows("picked"), place.rows("totals")) == undisturbed(&sql), "{}", log("a"));
}

/// Another one has taken over meanwhile, with a worker of its own: both of the first pair find out that they are not in charge.
#[test]
fn a_coordinator_that_was_paused_while_another_took_over_writes_nothing_any_more() {
    let place = Place::new(2, SQL);
    let log = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let pair = |name: &str| {
        let arguments = ["--uid", "one", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let coordinator = place.start_role("coordinator", &arguments, name);
        let mark = "taking registrations of workers port=";
        wait_until("it takes workers", || log(name).contains(mark));
        let port = log(name).split(mark).nth(1).unwrap().lines().next().unwrap().trim().to_owned();
        let address = format!("127.0.0.1:{port}");
        let arguments =
            ["--uid", "one", "--coordinator", &address, "--listen", "127.0.0.1:0", "--host", "127.0.0.1"];
        (coordinator, place.start_role("worker", &arguments, &format!("{name}-worker")))
    };
    let (first, _first_worker) = pair("first");
    wait_until("two checkpoints are complete", || checkpoints(&log("first")) >= 2);

    signal(first.id(), libc::SIGSTOP);
    let (_second, _second_worker) = pair("second");
    wait_until("the second one has gone on", || checkpoints(&log("second")) >= 3);
    assert!(restored_epochs(&log("second"))[0] > 0, "{}", log("second"));
    let known = checkpoints(&log("first"));
    signal(first.id(), libc::SIGCONT);

    wait_until("the first one notices", || log("first").contains("waiting for as long as it does"));
    assert_eq!(checkpoints(&log("first")), known, "{}", log("first"));
    wait_until("the job has ended", || log("second").contains("the job has ended"));
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
}

/// A figure of a process' memory, in KiB.
fn memory_kib(process: u32, figure: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// A job whose tasks fail as soon as they run is left as it is when it is stopped, and does not try again and again.
#[test]
fn a_job_that_only_fails_ends_when_it_is_stopped() {
    let place = Place::new(1, &SQL.replace("'path' = 'picked'", "'path' = '/proc/nowhere'"));
    let mut job = place.start(&[]);
    place.wait_until("it recovers", || place.log().matches("recovering").count() >= 3);
    let before = place.log().matches("leading the job").count();

    signal(job.id(), libc::SIGTERM);

    assert!(job.wait().unwrap().success(), "{}", place.log());
    let tries = place.log().matches("leading the job").count() - before;
    assert!(tries <= 3, "{tries}: {}", place.log());
}

/// Nobody takes what a sink prints: its source stands still and memory does not grow, while another pipeline of the job goes on.
#[test]
fn a_slow_sink_slows_its_source_and_nothing_else() {
    let sql = "
CREATE TABLE events (bid ROW<auction BIGINT, url STRING, extra STRING>, event_type INT)
  WITH ('connector' = 'nexmark', 'events' = '1000000');
CREATE TABLE printed (auction BIGINT, url STRING, extra STRING) WITH ('connector' = 'print');
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'fields.n.kind' = 'sequence', 'fields.n.start' = '1',
  'fields.n.end' = '3000000', 'rows-per-second' = '1000000');
CREATE TABLE nothing (n BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO printed SELECT bid.auction, bid.url, bid.extra FROM events WHERE event_type = 2;
INSERT INTO nothing SELECT n FROM numbers;";
    let place = Place::new(1, sql);
    let mut job = place.start_printing(&["--http", "127.0.0.1:0"]);
    place.wait_until("it serves", || place.log().contains("serving HTTP address="));
    let http = place.log().split("serving HTTP address=").nth(1).unwrap().lines().next().unwrap().to_owned();
    let rows_in = || -> BTreeMap<u64, u64> {
        let told = self::job(&http);
        let tasks = told["tasks"].as_array().unwrap().iter();
        tasks.map(|task| (task["chain"].as_u64().unwrap(), task["rowsIn"].as_u64().unwrap())).collect()
    };
    place.wait_until("the other pipeline is through", || rows_in().values().any(|rows| *rows == 3_000_000));
    let of_printed = || *rows_in().values().min().unwrap();
    let (rows, memory) = (of_printed(), memory_kib(job.id(), "VmRSS"));
    assert!(rows < 800_000, "the printed rows wait for a reader: {rows}");
    // Hundreds of megabytes of rows wait, and not in memory.
    assert!(memory < 300 << 10, "{memory} KiB");

    let mut printed = 0;
    let reader = std::io::BufReader::new(job.stdout().unwrap());
    for line in std::io::BufRead::lines(reader) {
        printed += usize::from(line.unwrap().starts_with("printed:1> +I["));
    }
    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert_eq!(printed, 1_000_000 / 50 * 46);
}

/// Every file that would be opened is refused for a while: by the limit of the process.
#[test]
fn too_many_open_files_are_named_with_their_cure_and_nothing_is_lost() {
    let place = Place::new(2, SQL);
    let mut job = place.start(&[]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    let limit = |soft: Option<u64>| -> libc::rlimit {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let process = libc::pid_t::try_from(job.id()).unwrap();
        // SAFETY: both point to values of the right type that outlive the call.
        assert_eq!(unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, std::ptr::null(), &mut before) }, 0);
        if let Some(soft) = soft {
            let wanted = libc::rlimit { rlim_cur: soft, ..before };
            // SAFETY: as above.
            let set = unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, &wanted, std::ptr::null_mut()) };
            assert_eq!(set, 0);
        }
        before
    };
    let before = limit(Some(3)).rlim_cur;
    place.wait_until("the limit is named", || {
        place.log().contains("Too many open files") && place.log().contains("ulimit -n")
    });
    limit(Some(before));

    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that passes is what is tested")]
fn a_process_that_was_paused_for_longer_than_its_heartbeats_goes_on() {
    let place = Place::new(2, SQL);
    let mut job = place.start(&[]);
    wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);

    signal(job.id(), libc::SIGSTOP);
    std::thread::sleep(SILENCE + Duration::from_secs(1));
    signal(job.id(), libc::SIGCONT);

    assert!(job.wait().unwrap().success(), "{}", place.log());
    assert_eq!((place.rows("picked"), place.rows("totals")), straight());
}

/// The checksums that a job has printed, by column.
fn checksums(printed: &str) -> Vec<(String, String)> {
    let lines = printed.lines().filter_map(|line| line.split_once("checksum of nothing."));
    lines.map(|(_, rest)| rest.split_once(": ").unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn checksums_of_a_blackhole_are_those_of_the_rows_in_files() {
    let into_both = SQL.replace("'rows-per-second' = '50000'", "'rows-per-second' = '100000'")
        + "
CREATE TABLE nothing (auction BIGINT, window_end TIMESTAMP(3), n BIGINT, total BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nothing SELECT auction, window_end, COUNT(*), SUM(price)
  FROM TABLE(HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '3' SECOND))
  GROUP BY auction, window_start, window_end;";
    let place = Place::new(3, &into_both);
    let mut job = place.start(&["--workers", "2"]);
    wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    kill_9(workers(&place.log()).last().unwrap());
    assert!(job.wait().unwrap().success(), "{}", place.log());
    let written = checksums(&place.out());
    assert!(restored_epochs(&place.log())[1] > 0);

    let read_back = Place::new(
        2,
        &format!(
            "CREATE TABLE totals (auction BIGINT, window_end TIMESTAMP(3), n BIGINT, total BIGINT)
               WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'json');
             CREATE TABLE nothing (auction BIGINT, window_end TIMESTAMP(3), n BIGINT, total BIGINT)
               WITH ('connector' = 'blackhole');
             INSERT INTO nothing SELECT * FROM totals;",
            place.path().join("totals").display()
        ),
    );
    let output = read_back.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let columns: Vec<&str> = written.iter().map(|(column, _)| column.as_str()).collect();
    assert_eq!(columns, ["auction", "window_end", "n", "total"], "{}", place.out());
    assert_eq!(checksums(&text(&output)), written);
}

/// Four rows of two keys come long after their window has fired. They are dropped, and each counts once, although those of one key
/// are one partial state, and although the job is killed and goes on.
#[test]
fn late_rows_count_once_each() {
    let sql = "
CREATE TABLE events (k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  WITH ('connector' = 'filesystem', 'path' = 'events', 'format' = 'json', 'scan.rows-per-second' = '30000');
CREATE TABLE totals (k STRING, window_end TIMESTAMP(3), v BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'totals', 'format' = 'json');
INSERT INTO totals SELECT k, window_end, AGGREGATE
  FROM TABLE(HOP(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '2' SECOND))
  GROUP BY k, window_start, window_end;";
    let row = |key: &str, ms: u64| {
        format!(
            "{{\"k\":\"{key}\",\"ts\":\"2024-02-29 {:02}:{:02}:{:02}.{:03}\"}}\n",
            ms / 3_600_000,
            ms / 60_000 % 60,
            ms / 1_000 % 60,
            ms % 1_000
        )
    };
    let late = [("a", 70), ("a", 71), ("b", 72), ("a", 5_000)].map(|(key, ms)| row(key, ms)).concat();
    let rows = |from: u64, to: u64| (from..to).map(|n| row("c", n * 10)).collect::<String>();
    let input = rows(0, 20_000) + &late + &rows(20_000, 60_000);
    let with_input = |place: &Place| {
        fs::create_dir(place.path().join("events")).unwrap();
        fs::write(place.path().join("events/rows.json"), &input).unwrap();
    };
    // With a state that counts rows, and without one.
    for (parallelism, aggregate) in [(2, "COUNT(*)"), (1, "MAX(CHAR_LENGTH(k))")] {
        let sql = sql.replace("AGGREGATE", aggregate);
        let straight = Place::new(1, &sql.replace("'30000'", "'100000'"));
        with_input(&straight);
        let output = straight.run(&[]);
        assert!(text(&output).contains("4 late rows dropped"), "{}", text(&output));
        assert_eq!(straight.rows("totals").len(), 601, "one key in each window");

        let place = Place::new(parallelism, &sql);
        with_input(&place);
        let mut job = place.start(&[]);
        place.wait_until("the late rows are in a checkpoint", || checkpoints(&place.log()) >= 4);
        job.kill().unwrap();
        job.wait().unwrap();
        let output = place.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("4 late rows dropped"), "{}", text(&output));
        assert!(restored_epochs(&text(&output)).last().is_some_and(|epoch| *epoch >= 4));
        assert_eq!(place.rows("totals"), straight.rows("totals"));
    }
}

/// Windows that are only grouped by, and compute nothing, have state like all others.
#[test]
fn windows_without_aggregates_survive_a_kill() {
    let sql = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts) WITH ('connector' = 'nexmark', 'events' = '60000', 'splits' = '2', 'rows-per-second' = '30000');
CREATE TABLE seen (auction BIGINT, window_end TIMESTAMP(3))
  WITH ('connector' = 'filesystem', 'path' = 'seen', 'format' = 'json');
INSERT INTO seen SELECT bid.auction, window_end FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' HOUR))
  WHERE event_type = 2 GROUP BY bid.auction, window_start, window_end;";
    let straight = Place::new(2, &sql.replace(", 'rows-per-second' = '30000'", ""));
    assert!(straight.run(&[]).status.success());
    assert!(straight.rows("seen").len() > 1000);

    let place = Place::new(2, sql);
    let mut job = place.start(&[]);
    place.wait_until("rows are in checkpoints", || checkpoints(&place.log()) >= 3);
    job.kill().unwrap();
    job.wait().unwrap();
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output)).last().is_some_and(|epoch| *epoch > 0));
    assert_eq!(place.rows("seen"), straight.rows("seen"));
}

/// A view that several INSERTs read is computed once, and each gets its rows: the same as if it were alone, through kills.
#[test]
fn what_inserts_have_in_common_is_computed_once_through_kills() {
    let tables = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '4' SECOND)
  WITH ('connector' = 'nexmark', 'events' = '60000', 'splits' = '2', 'rows-per-second' = '30000');
CREATE VIEW bids AS SELECT bid.auction, bid.price, ts FROM events WHERE event_type = 2;
CREATE VIEW totals AS SELECT auction, window_end, COUNT(*) AS n, SUM(price) AS total
  FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY auction, window_start, window_end;
CREATE TABLE counts (auction BIGINT, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'counts', 'format' = 'json');
CREATE TABLE dear (auction BIGINT, window_end TIMESTAMP(3), total BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'dear', 'format' = 'json');
CREATE TABLE sums (auction BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
";
    let inserts = [
        "INSERT INTO counts SELECT auction, n FROM totals;\n",
        "INSERT INTO dear SELECT auction, window_end, total FROM totals WHERE n > 2;\n",
        "INSERT INTO sums SELECT auction, SUM(n) FROM totals GROUP BY auction;\n",
    ];
    let alone = inserts.map(|insert| {
        let place = Place::new(2, &format!("{tables}{insert}").replace(", 'rows-per-second' = '30000'", ""));
        let output = place.run(&[]);
        assert!(output.status.success(), "{}", text(&output));
        (place, text(&output))
    });
    let checksums = |printed: &str| -> Vec<String> {
        printed.lines().filter(|line| line.contains("checksum of sums.")).map(str::to_owned).collect()
    };
    let sums = checksums(&alone[2].1);
    assert_eq!(sums.len(), 2);
    let sql = format!("{tables}{}", inserts.concat());

    for arguments in [&[][..], &["--workers", "2"]] {
        let place = Place::new(2, &sql);
        let mut job = place.start(arguments);
        place.wait_until("rows are in checkpoints", || checkpoints(&place.log()) >= 3);
        let has_few_tasks = place.log().contains("tasks=6") || !arguments.is_empty();
        assert!(has_few_tasks, "of the source, the windows and the sums: {}", place.log());
        signal(job.id(), libc::SIGKILL);
        job.wait().unwrap();
        let mut job = place.start(arguments);

        assert!(job.wait().unwrap().success(), "{}", place.log());
        assert!(restored_epochs(&place.log())[0] >= 3, "{}", place.log());
        for ((alone, _), table) in alone.iter().zip(["counts", "dear"]) {
            assert!(!alone.rows(table).is_empty());
            assert_eq!(place.rows(table), alone.rows(table), "{table}, {arguments:?}");
        }
        assert_eq!(checksums(&place.out()), sums, "{arguments:?}");
    }
}

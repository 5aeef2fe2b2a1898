//! Transactions through what a broker answers when they were ended, superseded, forgotten or are being committed.

use std::collections::BTreeSet;

use millrace::checkpoint::records::{self, JobRecord};
use millrace::fault::{CRASH_AT, CrashPoint};

use crate::broker::Broker;
use crate::harness::{Place, signal, text};
use crate::kafka::{expected, last, restored, row, sql, stop};

#[test]
fn a_broker_without_the_second_generation_of_transactions_is_refused() {
    let broker = Broker::start(1);
    for topic in ["events", "picked", "totals"] {
        broker.create_topic(topic, 1);
    }
    broker.append("events", 0, &[row(3)]);

    let output = Place::new(1, &sql(broker.address())).run(&[]);

    let text = text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("transaction.version at 2, and it is at 1"), "{text}");
}

#[test]
fn a_time_out_that_the_broker_does_not_allow_is_named_with_the_longest_one() {
    let broker = Broker::start(2);
    for topic in ["events", "picked", "totals"] {
        broker.create_topic(topic, 1);
    }
    broker.append("events", 0, &[row(3)]);
    let timeout = "'topic' = 'picked', 'properties.transaction.timeout.ms' = '3600000'";
    let place = Place::new(1, &sql(broker.address()).replace("'topic' = 'picked'", timeout));

    let output = place.run(&[]);

    let text = text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("= 3600000 is above the brokers' transaction.max.timeout.ms = 900000; lower the one"),
        "{text}"
    );
}

/// A job with a checkpoint whose results are prepared and not committed, and a short time-out.
fn cut_off_before_commit(broker: &Broker, timeout_ms: u64) -> Place {
    broker.create_topic("picked", 1);
    cut_off_once_there_is_a_sink(broker, timeout_ms)
}

fn cut_off_once_there_is_a_sink(broker: &Broker, timeout_ms: u64) -> Place {
    for topic in ["events", "totals"] {
        broker.create_topic(topic, 1);
    }
    broker.append("events", 0, &[row(3), row(4), row(10)]);
    let timeout = format!("'topic' = 'picked', 'properties.transaction.timeout.ms' = '{timeout_ms}'");
    let place = Place::new(1, &sql(broker.address()).replace("'topic' = 'picked'", &timeout));
    let crashed = place.start_crashing("MILLRACE_TEST_CRASH_AT", "record-written").wait().unwrap();
    assert!(!crashed.success());
    assert!(!broker.open_transactions().is_empty(), "{}", place.log());
    place
}

#[test]
fn a_commit_that_was_cut_off_is_made_by_the_next_start() {
    let broker = Broker::start(2);
    let place = cut_off_before_commit(&broker, 60_000);

    let mut job = place.start(&[]);
    place.wait_until("the job runs on", || place.log().contains("checkpoint complete"));
    let log = place.log();
    let left = log.split("committing what a checkpoint has prepared").nth(1).unwrap();
    let left: u64 =
        left.split("left_ms=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!((1..60_000).contains(&left), "{log}");
    stop(&place, &mut job);

    assert_eq!(broker.committed("picked", 2), ["{\"id\":10,\"k\":3}", "{\"id\":3,\"k\":3}"]);
}

#[test]
fn a_transaction_that_the_broker_has_ended_is_reported_as_lost() {
    let broker = Broker::start(2);
    let place = cut_off_before_commit(&broker, 3_000);
    place.wait_until("the broker has ended the transaction", || broker.open_transactions().is_empty());

    for _ in 0..2 {
        let output = place.run(&[]);

        let text = text(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        for words in [
            "SinkTransactionLost: 2 rows of epoch",
            "the topic 'picked' are lost",
            "CompleteAbort",
            "start over",
        ] {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
    }

    // One of the cures that the message names. It has to be of the very checkpoint.
    let said = text(&place.run(&[]));
    let epoch =
        said.split("spec.checkpoint.acceptLostResultsOf: ").nth(1).and_then(|rest| rest.split(';').next());
    let epoch: u64 = epoch.unwrap().parse().unwrap();
    let other = format!("acceptLostResultsOf: {}", epoch + 1);
    place.edit_job("interval: 300ms", &format!("interval: 300ms\n    {other}"));
    assert_eq!(place.run(&[]).status.code(), Some(3));
    place.edit_job(&other, &format!("acceptLostResultsOf: {epoch}"));
    broker.append("events", 0, &[row(17)]);
    let mut job = place.start(&[]);
    place.wait_until("it goes on behind them", || last(&place.log(), "rows_out=") == 3);
    stop(&place, &mut job);
    assert!(place.log().contains("results are given up"), "{}", place.log());
    assert!(restored(&place.log())[0] > 0, "{}", place.log());
    assert_eq!(broker.committed("picked", 1), ["{\"id\":17,\"k\":3}"]);

    // Another cure.
    let mut job = place.start(&["--from", "none"]);
    place.wait_until("the rows are written", || last(&place.log(), "rows_out=") == 3);
    stop(&place, &mut job);
    let again = ["{\"id\":10,\"k\":3}", "{\"id\":17,\"k\":3}", "{\"id\":17,\"k\":3}", "{\"id\":3,\"k\":3}"];
    assert_eq!(broker.committed("picked", 4), again);
}

/// While the store takes no record, the broker ends the transactions that the record would name: the rows are read again.
#[test]
fn a_checkpoint_is_not_recorded_once_its_transactions_have_ended() {
    let broker = Broker::start(2);
    for topic in ["events", "picked", "totals"] {
        broker.create_topic(topic, 1);
    }
    broker.append("events", 0, &[row(1)]);
    let timeout = "'topic' = 'picked', 'properties.transaction.timeout.ms' = '3000'";
    let place = Place::new(1, &sql(broker.address()).replace("'topic' = 'picked'", timeout));
    let mut job = place.start(&[]);
    place.wait_until("the job runs", || place.log().contains("checkpoint complete"));
    let records = place.path().join(".millrace/default/job/epochs");
    let aside = records.with_extension("aside");
    std::fs::rename(&records, &aside).unwrap();
    std::fs::write(&records, "in the way").unwrap();
    broker.append("events", 0, &[row(3), row(10)]);
    place.wait_until("a record is refused", || place.log().contains("a checkpoint cannot be recorded"));
    place.wait_until("rows are in a transaction", || !broker.open_transactions().is_empty());
    place.wait_until("the broker has ended it", || broker.open_transactions().is_empty());

    std::fs::remove_file(&records).unwrap();
    std::fs::rename(&aside, &records).unwrap();
    place.wait_until("the rows are written", || last(&place.log(), "rows_out=") == 2);
    stop(&place, &mut job);

    assert!(!place.log().contains("SinkTransactionLost"), "{}", place.log());
    assert!(place.log().contains("raise 'properties.transaction.timeout.ms' of the sink"), "{}", place.log());
    assert_eq!(broker.committed("picked", 2), ["{\"id\":10,\"k\":3}", "{\"id\":3,\"k\":3}"]);
}

/// The one open transaction of a job that was cut off.
fn open_transaction(broker: &Broker) -> String {
    let open = broker.open_transactions();
    assert_eq!(open.len(), 1, "{open:?}");
    open.into_iter().next().unwrap()
}

/// Nobody can tell then whether the rows were committed before: that is said, and nothing goes on by itself.
fn is_reported_as_undecided(broker: &Broker, place: &Place) {
    for _ in 0..2 {
        let output = place.run(&[]);

        let text = text(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        for words in [
            "SinkTransactionUndecided: whether the 2 rows of epoch",
            "for the topic 'picked' were committed cannot be told",
            "was superseded or has expired",
            "compare the topic with the job's input",
            "spec.checkpoint.acceptLostResultsOf: 2; or start over",
        ] {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
    }
    assert_eq!(broker.committed("picked", 0), [""; 0], "nothing is written twice by going on");
}

#[test]
fn a_transaction_that_another_writer_has_superseded_is_reported_as_undecided() {
    let broker = Broker::start(2);
    let place = cut_off_before_commit(&broker, 60_000);
    broker.supersede(&open_transaction(&broker));

    is_reported_as_undecided(&broker, &place);
}

#[test]
fn a_transaction_that_the_broker_has_forgotten_is_reported_as_undecided() {
    let broker = Broker::start_forgetful();
    let place = cut_off_before_commit(&broker, 1_000);
    let id = open_transaction(&broker);
    place.wait_until("the broker knows nothing of the id", || broker.describe_transaction(&id).is_none());

    is_reported_as_undecided(&broker, &place);
}

/// The decision is made, and no mark can be written where the rows are: that counts as committed, however often it is repeated.
#[test]
fn a_commit_whose_marks_wait_for_a_broker_is_a_commit() {
    let broker = Broker::start(2);
    // So that the log of transactions is made while there is one broker.
    broker.supersede("first");
    let mut second = broker.start_second();
    broker.create_topic_at_second("picked");
    let place = cut_off_once_there_is_a_sink(&broker, 60_000);
    let id = open_transaction(&broker);
    let state = || broker.describe_transaction(&id).unwrap().0;
    let (_, producer, epoch) = broker.describe_transaction(&id).unwrap();
    second.kill();
    assert_eq!(broker.commit_transaction(&id, producer, epoch), 0);
    assert_eq!(state(), "PrepareCommit");
    assert_eq!(broker.commit_transaction(&id, producer, epoch), 51, "the answer that the job gets, too");

    let mut job = place.start(&[]);
    place.wait_until("the job runs on", || place.log().contains("checkpoint complete"));
    assert_eq!(state(), "PrepareCommit", "{}", place.log());
    second.revive();
    place.wait_until("the marks are written", || state() == "CompleteCommit");
    assert_eq!(broker.committed("picked", 2), ["{\"id\":10,\"k\":3}", "{\"id\":3,\"k\":3}"]);

    broker.append("events", 0, &[row(17)]);
    place.wait_until("a further row is written", || last(&place.log(), "rows_out=") == 3);
    stop(&place, &mut job);
    assert_eq!(broker.committed("picked", 3).len(), 3);
}

/// A process that was stopped in the middle of its transactions wakes up when another one has taken the job over.
#[test]
fn a_producer_that_wakes_up_after_it_was_replaced_adds_nothing() {
    let broker = Broker::start(2);
    for topic in ["events", "picked", "totals"] {
        broker.create_topic(topic, 1);
    }
    let place = Place::new(2, &sql(broker.address()));
    let mut sent = 0;
    let mut send = |rows: i64| {
        broker.append("events", 0, &(sent..sent + rows).map(row).collect::<Vec<_>>());
        sent += rows;
        sent
    };
    let covers = |place: &Place, log: &str, rows: i64| {
        let log = std::fs::read_to_string(place.path().join(log)).unwrap_or_default();
        last(&log, "rows_in=") == rows
    };
    let mut zombie = place.start(&[]);
    let first = send(3_000);
    place.wait_until("a checkpoint covers the first rows", || covers(&place, "log", first));
    std::fs::rename(place.path().join("log"), place.path().join("log-of-zombie")).unwrap();
    send(3_000);
    place.wait_until("rows are in a transaction", || !broker.open_transactions().is_empty());
    signal(zombie.id(), libc::SIGSTOP);

    let mut job = place.start(&[]);
    let second = send(3_000);
    place.wait_until("a checkpoint of the second process covers all", || covers(&place, "log", second));
    assert!(restored(&place.log())[0] > 0, "{}", place.log());
    let third = send(3_000);
    signal(zombie.id(), libc::SIGCONT);
    let ended = zombie.wait().unwrap();
    assert!(!ended.success());
    place.wait_until("a checkpoint covers what came since", || covers(&place, "log", third));
    broker.append("events", 0, &["{\"id\": 0, \"k\": -1, \"ts\": \"2027-01-01 00:00:00\"}".to_owned()]);
    let (picked, totals) = expected(third);
    let written = (picked.len() + totals.len()) as i64;
    place.wait_until("a checkpoint covers all results", || last(&place.log(), "rows_out=") == written);
    stop(&place, &mut job);

    assert!(broker.open_transactions().is_empty(), "{:?} hold back readers", broker.open_transactions());
    assert_eq!(broker.committed("picked", picked.len()), picked);
    assert_eq!(broker.committed("totals", totals.len()), totals);
}

/// One process of a job dies at each step there is, after a start that had a commit to make again, and long before its input ends.
#[test]
fn a_crash_at_any_step_of_a_commit_loses_and_doubles_nothing() {
    let broker = Broker::start(2);
    // No sink of Kafka shows files, and no run erases its state.
    let others = [CrashPoint::FileShown, CrashPoint::RecordsErased];
    let points: Vec<CrashPoint> =
        CrashPoint::ALL.iter().copied().filter(|point| !others.contains(point)).collect();
    std::thread::scope(|scope| {
        for some in points.chunks(points.len().div_ceil(3)) {
            scope.spawn(|| some.iter().for_each(|point| a_crash_loses_and_doubles_nothing(*point, &broker)));
        }
    });
}

fn a_crash_loses_and_doubles_nothing(point: CrashPoint, broker: &Broker) {
    const ROWS: usize = 3_000;
    let expected: BTreeSet<String> = (0..ROWS).map(|n| format!("{{\"n\":{n}}}")).collect();
    let topic = point.name();
    broker.create_topic(topic, 2);
    let sql = format!(
        "CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'splits' = '2', 'rows-per-second' = '600',
           'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
         CREATE TABLE written (n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'format' = 'json',
           'properties.bootstrap.servers' = '{}');
         INSERT INTO written SELECT n FROM numbers;",
        ROWS - 1,
        broker.address()
    );
    let place = Place::new(2, &sql);
    let crashed = place.start_crashing(CRASH_AT, "record-written:2").wait().unwrap();
    assert!(!crashed.success(), "{topic}: {}", place.log());
    let mark = place.path().join("mark");
    let at = format!("{topic}@{}", mark.display());
    place.start_with(&["--workers", "2"], CRASH_AT, &at).wait().unwrap();
    assert!(mark.exists(), "{topic} was not reached: {}", place.log());
    let output = place.run(&["--workers", "2"]);
    assert!(output.status.success(), "{topic}: {}", text(&output));

    let rows = broker.committed(topic, ROWS);

    let different: BTreeSet<String> = rows.iter().cloned().collect();
    assert!(rows.len() == ROWS && different == expected, "{topic}: {} rows", rows.len());
    // The broker serves other jobs, too.
    let job = std::fs::read(place.path().join(".millrace/default/job/job.pb")).unwrap();
    let id = format!("millrace/{}/", records::decode::<JobRecord>(&job).unwrap().uid);
    let open: Vec<String> =
        broker.open_transactions().into_iter().filter(|open| open.starts_with(&id)).collect();
    assert!(open.is_empty(), "{topic}: {open:?}");
}

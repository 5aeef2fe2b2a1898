//! Verbs that look at jobs without running them: `explain` and `checkpoints`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::harness::{Place, signal, text, wait_until};

const SQL: &str = "
CREATE TABLE events (
  event_type INT,
  bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>,
  ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events' = '100000', 'splits' = '2', 'rows-per-second' = '40000');
CREATE TABLE totals (auction BIGINT, n BIGINT, bidders BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'totals', 'format' = 'json');
CREATE TABLE counts (auction BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO totals SELECT bid.auction, COUNT(*), COUNT(DISTINCT bid.bidder)
  FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' SECOND))
  WHERE event_type = 2 GROUP BY bid.auction, window_start, window_end;
INSERT INTO counts SELECT bid.auction, COUNT(*) FROM events WHERE event_type = 2 GROUP BY bid.auction;";

#[test]
fn every_example_is_a_job() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let all = [examples.clone(), examples.join("cluster")]
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let files: Vec<_> = all.map(|file| file.unwrap().path()).filter(|path| path.is_file()).collect();
    for file in &files {
        // One file may hold what a job needs beside it.
        let place = Place::new(1, SQL);
        fs::copy(file, place.path().join("job.yaml")).unwrap();
        let checked = place.verb("validate", &[]);
        assert!(checked.status.success(), "{}: {}", file.display(), text(&checked));
    }
    assert!(files.len() >= 5);
}

#[test]
fn explain_shows_operators_state_and_ways() {
    let place = Place::new(2, SQL);

    let shown = place.verb("explain", &[]);

    assert!(shown.status.success(), "{}", text(&shown));
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), include_str!("explained.txt"));
    let json = place.verb("explain", &["--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let of = |id: &str| json["operators"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
    assert_eq!(of("totals/events/tumble")["state"], serde_json::json!(["slices", "distinct0"]));
    assert_eq!(of("totals/events/tumble")["mode"], "append");
    assert_eq!(of("counts/events/group")["mode"], "changelog");
    let edges = json["edges"].as_array().unwrap();
    let by_key = edges.iter().find(|edge| edge["to"] == "counts/events/group").unwrap();
    assert_eq!((&by_key["partitioning"], &by_key["keys"]), (&"hash".into(), &serde_json::json!(["auction"])));
    let dot = place.verb("explain", &["--dot"]);
    let dot = String::from_utf8(dot.stdout).unwrap();
    assert!(dot.starts_with("digraph job {") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("\"totals/events/tumble-local\" -> \"totals/events/tumble\""), "{dot}");
}

fn epochs(place: &Place) -> Vec<u64> {
    let listed = place.verb("checkpoints", &["list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    listed.as_array().unwrap().iter().map(|one| one["epoch"].as_u64().unwrap()).collect()
}

#[test]
fn checkpoints_are_listed_inspected_verified_and_removed() {
    let place = Place::new(2, SQL);
    let empty = place.verb("checkpoints", &[]);
    assert!(empty.status.success() && text(&empty).contains("there is no checkpoint"), "{}", text(&empty));
    let mut job = place.start(&[]);
    wait_until("four checkpoints are complete", || place.log().matches("checkpoint complete").count() >= 4);
    signal(job.id(), libc::SIGKILL);
    job.wait().unwrap();

    // As many are kept as the manifest says by default, or a few more, and the newest is shown first.
    let found = epochs(&place);
    assert!(found.len() >= 3 && found.is_sorted_by(|a, b| a > b), "{found:?}");
    let shown = text(&place.verb("checkpoints", &[]));
    assert!(shown.starts_with("     EPOCH") && shown.lines().count() == found.len() + 1, "{shown}");

    let inspected = place.verb("checkpoints", &["inspect", &found[0].to_string(), "--json"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let operators = inspected["operators"].as_array().unwrap();
    let rows = |id: &str| operators.iter().find(|one| one["id"] == id).unwrap()["rows"].as_u64().unwrap();
    // Both INSERTs have read the same rows.
    let read = rows("totals/events/source");
    assert_eq!(rows("counts/events/source"), read, "{inspected:#}");
    assert!(read > 0 && inspected["rows_in"] == read, "{inspected:#}");
    let details = text(&place.verb("checkpoints", &["inspect"]));
    let parts = ["totals/events/tumble", "slices: ", "distinct0: ", "groups: ", "00000: next event "];
    assert!(parts.iter().all(|part| details.contains(part)), "{details}");
    let missing = place.verb("checkpoints", &["inspect", "9999"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing).contains("there is no checkpoint 9999; there are: "), "{}", text(&missing));

    // The newest segment belongs to the newest checkpoint alone.
    let whole = place.verb("checkpoints", &["verify"]);
    assert!(whole.status.success(), "{}", text(&whole));
    let state = place.path().join(".millrace/default/job/segments");
    let newest = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 1]).unwrap();
    let damaged = place.verb("checkpoints", &["verify"]);
    fs::write(&newest, &bytes).unwrap();
    assert_eq!(damaged.status.code(), Some(1));
    let name = newest.file_name().unwrap().to_str().unwrap().to_owned();
    let said = text(&damaged);
    assert!(
        said.contains(&format!("checkpoint {}: damaged\n  the object 'segments/{name}'", found[0])),
        "{said}"
    );
    assert!(said.contains(&format!("checkpoint {}: whole", found[1])), "{said}");

    let all = place.verb("checkpoints", &["delete", "--before", "9999"]);
    assert_eq!(all.status.code(), Some(1));
    assert!(text(&all).contains("nothing would be left of the job's state"), "{}", text(&all));
    let deleted = place.verb("checkpoints", &["delete", "--before", &found[0].to_string()]);
    assert!(deleted.status.success(), "{}", text(&deleted));
    assert_eq!(epochs(&place), found[..1]);

    let ended = place.run(&[]);
    assert!(ended.status.success(), "{}", text(&ended));
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '40000'", ""));
    let output = straight.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(place.rows("totals"), straight.rows("totals"));

    for which in [&["--all"][..], &["--before", "1"]] {
        let others = place.verb("checkpoints", &[&["delete", "--uid", "another"], which].concat());
        assert_eq!(others.status.code(), Some(1));
        assert!(text(&others).contains("holds the state of another job, 'default/job'"), "{}", text(&others));
    }
    let none = place.verb("checkpoints", &["delete"]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none));
    let again = text(&place.run(&[]));
    assert!(again.contains("finished at"), "{again}");
    let all = place.verb("checkpoints", &["delete", "--all"]);
    assert!(all.status.success() && text(&all).contains("removed the state in"), "{}", text(&all));
    let again = text(&straight.run(&["--from", "latest"]));
    assert!(again.contains("finished at"), "{again}");
    place.set_job(2, &SQL.replace(", 'rows-per-second' = '40000'", ""));
    let over = place.run(&[]);
    assert!(
        over.status.success() && text(&over).contains("restored_epoch=0"),
        "it starts over: {}",
        text(&over)
    );
}

#[test]
fn a_job_begins_from_a_savepoint_or_from_the_state_of_another_one() {
    let first = Place::new(2, SQL);
    let mut job = first.start(&[]);
    first.wait_until("results are visible", || {
        !first.rows("totals").is_empty() && first.log().matches("checkpoint complete").count() > 1
    });
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", first.log());
    let saved = first.path().join("saved/1").display().to_string();
    let said = first.verb("checkpoints", &["savepoint", &saved]);
    assert!(said.status.success() && text(&said).contains("is saved in"), "{}", text(&said));
    let again = first.verb("checkpoints", &["savepoint", &saved]);
    assert!(again.status.success(), "the same again: {}", text(&again));
    let older = epochs(&first)[1].to_string();
    let other = first.verb("checkpoints", &["savepoint", &saved, "--epoch", &older]);
    assert_eq!(other.status.code(), Some(1), "{}", text(&other));
    assert!(text(&other).contains("there is something in"), "{}", text(&other));
    let written = first.rows("totals");
    let of_job = first.path().join(".millrace/default/job").display().to_string();
    let fast = SQL.replace(", 'rows-per-second' = '40000'", "");
    let straight = Place::new(1, &fast);
    let straight_end = straight.run(&[]);
    assert!(straight_end.status.success(), "{}", text(&straight_end));
    let checksums = |printed: &str| -> Vec<String> {
        printed.lines().filter(|line| line.contains("checksum of counts.")).map(str::to_owned).collect()
    };
    assert_eq!(checksums(&text(&straight_end)).len(), 2, "{}", text(&straight_end));

    // The job itself may go on meanwhile, or be gone: the savepoint has all that it needs.
    for (from, parallelism) in [(&of_job, 5), (&saved, 3)] {
        let place = Place::new(parallelism, &fast);
        // On the command line, or in the manifest.
        let output = if *from == of_job {
            place.run(&["--from", from])
        } else {
            place.edit_job("spec:", &format!("spec:\n  startFrom: {from}"));
            place.run(&[])
        };

        assert!(output.status.success(), "{}", text(&output));
        let mut rows = [written.clone(), place.rows("totals")].concat();
        rows.sort();
        assert!(rows == straight.rows("totals"), "{from}");
        assert_eq!(checksums(&text(&output)), checksums(&text(&straight_end)), "{from}");
        assert!(!place.rows("totals").is_empty());
        if *from == of_job {
            fs::remove_dir_all(from).unwrap();
        }
    }

    let segments = Path::new(&saved).join("segments");
    let segment = fs::read_dir(segments).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&segment).unwrap();
    fs::write(&segment, &whole[..whole.len() - 1]).unwrap();
    let place = Place::new(2, &fast);
    let damaged = place.run(&["--from", &saved]);
    assert_eq!(damaged.status.code(), Some(3), "{}", text(&damaged));
    assert!(text(&damaged).contains("is malformed or cut short"), "{}", text(&damaged));
    fs::write(&segment, whole).unwrap();
    let mended = place.run(&["--from", &saved]);
    assert!(mended.status.success(), "{}", text(&mended));
}

#[test]
fn what_a_job_cannot_begin_from_is_told_and_it_begins_once_that_is_mended() {
    let first = Place::new(2, SQL);
    let mut job = first.start(&[]);
    first.wait_until("a checkpoint is complete", || first.log().contains("checkpoint complete"));
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", first.log());
    let from = first.path().join(".millrace/default/job").display().to_string();
    let place = Place::new(2, SQL);
    let refused = |from: &str, code: i32, part: &str| {
        let output = place.run(&["--from", from]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(part), "{part} is not in {}", text(&output));
    };

    refused("earliest", 2, "write latest, none, or a place");
    let in_manifest = |start: &str, code: i32, part: &str| {
        place.set_job(2, SQL);
        place.edit_job("spec:", &format!("spec:\n  startFrom: {start}"));
        let output = place.run(&[]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(part), "{part} is not in {}", text(&output));
        place.set_job(2, SQL);
    };
    in_manifest("Earliest", 1, "spec.startFrom: Latest, None, or the place");
    in_manifest("gs://b/f", 1, "spec.startFrom: 'gs://b/f' is not supported; use s3://");
    in_manifest(
        "./nothing",
        1,
        "spec.startFrom: there is no state in './nothing' to begin from; name a savepoint",
    );
    refused("./nothing", 1, "--from: there is no state in './nothing' to begin from; name a savepoint");
    place.edit_job("spec:", "spec:\n  maxParallelism: 64");
    refused(&from, 1, "has maxParallelism 1024, the manifest says 64; set spec.maxParallelism to 1024");
    place.set_job(2, &SQL.replace("COUNT(DISTINCT bid.bidder)", "SUM(bid.bidder)"));
    refused(&from, 3, "it does not fit the state of checkpoint");

    place.set_job(2, SQL);
    let mut job = place.start(&["--from", &from]);
    place.wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    job.kill().unwrap();
    job.wait().unwrap();
    let elsewhere = place.path().join("elsewhere").display().to_string();
    refused(&elsewhere, 1, "has a checkpoint of this job already");
    // The same command again goes on, and neither begins anew nor needs that place.
    let mut job = place.start(&["--from", &from]);
    place.wait_until("it goes on", || place.log().contains("goes on from its own checkpoint"));
    place.wait_until("it leads again", || place.log().contains("leading the job"));
    assert!(!place.log().contains("beginning from there"), "{}", place.log());
    job.kill().unwrap();
    job.wait().unwrap();
    // In the manifest it is for a job without a checkpoint, and not looked at any more.
    place.edit_job("spec:", &format!("spec:\n  startFrom: {from}"));
    fs::remove_dir_all(&from).unwrap();
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
}

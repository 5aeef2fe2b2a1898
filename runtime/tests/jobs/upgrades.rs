//! SQL is edited between two runs: the job goes on from its state, lets some of it go, or begins without.

use std::fs;

use millrace::checkpoint::records::{self, Manifest};
use millrace::fault::CRASH_AT;

use super::harness::{Place, signal, text};
use super::recovery::{SQL, checkpoints, restored_epochs, undisturbed};

/// An INSERT is put before another one into the same table, and a third one gets a condition that all rows meet: what there was
/// goes on from its state, and what is new reads from the beginning.
#[test]
fn edited_sql_goes_on_from_its_state() {
    let before = "INSERT INTO picked SELECT";
    let edited = SQL
        .replace(
            before,
            &format!(
                "INSERT INTO picked SELECT auction, price FROM bids WHERE MOD(auction, 10) = 5;\n{before}"
            ),
        )
        .replace("  GROUP BY", "  WHERE price > 0 GROUP BY");
    let straight = Place::new(2, &edited.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    let place = Place::new(2, SQL);
    let mut job = place.start(&[]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", place.log());

    assert!(place.log().contains("tasks=4"), "the events are read once, for two slots: {}", place.log());

    place.set_job(3, &edited);
    let mut job = place.start(&[]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    assert!(place.log().contains("tasks=9"), "the new INSERT reads for itself: {}", place.log());
    job.kill().unwrap();
    job.wait().unwrap();
    let log = place.log();
    assert!(log.contains("the SQL has changed, and goes on from the state"), "{log}");
    assert!(log.contains("there is a new 'picked/events/source/2'"), "{log}");
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output))[0] > restored_epochs(&log)[0], "{}", text(&output));
    assert_eq!(place.rows("totals"), straight.rows("totals"));
    assert_eq!(place.rows("picked"), straight.rows("picked"));
    // Going on from what is kept would be wrong here.
    place.set_job(3, &edited.replace("SUM(price)", "MAX(price)"));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("finished at") && text(&output).contains("and would keep "),
        "{}",
        text(&output)
    );
}

/// Rows of a sink that the newest checkpoint holds.
fn rows_in_checkpoint(place: &Place, sink: &str) -> u64 {
    let folder = place.path().join(".millrace/default/job/manifests");
    let newest = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let manifest: Manifest = records::decode(&fs::read(newest).unwrap()).unwrap();
    manifest.subtasks.iter().filter(|state| state.operator == sink).map(|state| state.rows).sum()
}

/// Ends a job once a checkpoint is complete whose results are not visible yet, the n-th that has some.
fn cut_off(place: &Place, nth: u32) {
    let crashed = place.start_crashing(CRASH_AT, &format!("record-written:{nth}")).wait().unwrap();
    assert!(!crashed.success(), "{}", place.log());
}

fn with_upgrade(place: &Place, upgrade: &str) {
    place.edit_job("spec:", &format!("spec:\n  upgrade: {upgrade}"));
}

/// What it has prepared becomes visible all the same.
#[test]
fn an_insert_that_is_taken_away_goes_with_its_state_only_if_it_may() {
    let sql = SQL.replace("'400000'", "'100000'");
    let insert = "INSERT INTO picked SELECT auction, price FROM bids WHERE MOD(auction, 10) = 0;";
    let (picked, totals) = undisturbed(&sql);
    let place = Place::new(2, &sql);
    cut_off(&place, 3);
    let (visible, expected) =
        (place.rows("picked").len() as u64, rows_in_checkpoint(&place, "picked/picked/sink"));
    assert!(visible < expected, "{visible} of {expected}");
    place.set_job(3, &sql.replace(insert, ""));

    let refused = place.run(&[]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    for part in ["there is no 'picked/picked/sink' any more", "spec.upgrade.allowNonRestoredState: true"] {
        assert!(text(&refused).contains(part), "{part} is not in {}", text(&refused));
    }
    with_upgrade(&place, "{allowNonRestoredState: true}");
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output))[0] > 0, "{}", text(&output));
    assert_eq!(place.rows("totals"), totals);
    let mut left = picked;
    for row in place.rows("picked") {
        let position = left.iter().position(|other| *other == row).expect("a row too many");
        left.swap_remove(position);
    }
    assert_eq!(place.rows("picked").len() as u64, expected);
}

/// It begins once, not with every start; what the former SQL has prepared becomes visible.
#[test]
fn sql_that_no_state_fits_begins_without_if_it_may() {
    let sql = SQL.replace("'400000'", "'100000'");
    let edited = sql.replace("SUM(price)", "MAX(price)").replace("'path' = 'totals'", "'path' = 'highest'");
    let straight = Place::new(2, &edited.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    let place = Place::new(2, &sql);
    cut_off(&place, 3);
    let expected = [("picked", "picked/picked/sink"), ("totals", "totals/totals/sink")]
        .map(|(folder, sink)| (folder, rows_in_checkpoint(&place, sink) as usize));
    place.set_job(3, &edited);
    let refused = place.run(&[]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("begin without state with spec.upgrade.mode: Stateless"),
        "{}",
        text(&refused)
    );
    with_upgrade(&place, "{mode: Stateless}");

    let mut job = place.start(&[]);
    place.wait_until("two checkpoints are complete", || checkpoints(&place.log()) >= 2);
    job.kill().unwrap();
    job.wait().unwrap();
    assert!(place.log().contains("the SQL has changed, and begins without the state"), "{}", place.log());
    assert_eq!(restored_epochs(&place.log()).last(), Some(&0), "{}", place.log());
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output))[0] > 0, "{}", text(&output));
    assert_eq!(place.rows("highest"), straight.rows("highest"));
    // The same rows as before are written again, into the same folder.
    let again = straight.rows("picked").len();
    for (folder, before) in expected {
        let more = if folder == "picked" { again } else { 0 };
        assert_eq!(place.rows(folder).len(), before + more, "{folder}");
    }
}

/// Another job begins from it with the former SQL.
#[test]
fn a_savepoint_of_the_state_before_an_edit_is_kept_if_that_is_wished() {
    let sql = SQL.replace("'400000'", "'100000'");
    let place = Place::new(2, &sql);
    cut_off(&place, 3);
    let edited = sql.replace("MOD(auction, 10) = 0", "MOD(auction, 10) = 5");
    place.set_job(3, &edited);
    with_upgrade(&place, "{mode: Savepoint}");

    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    let epoch = restored_epochs(&text(&output))[0];
    let saved = place.path().join(format!(".millrace/default/job/savepoints/{epoch:020}"));
    assert!(
        text(&output).contains("kept a savepoint of the state before the SQL changed"),
        "{}",
        text(&output)
    );
    assert_eq!(fs::read_dir(saved.parent().unwrap()).unwrap().count(), 1);
    let before = Place::new(1, &sql);
    let output = before.run(&["--from", &saved.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    let (picked, totals) = undisturbed(&sql);
    assert!(place.rows("totals") == totals, "the edit was of the other INSERT");
    // What was visible at the savepoint is with the first job, and what came later with the second.
    let late = before.rows("picked");
    assert!(!late.is_empty() && late.len() < picked.len(), "{} of {}", late.len(), picked.len());
    assert!(late.iter().all(|row| picked.contains(row)));
}

/// Each goes on from what they had in common.
#[test]
fn an_insert_that_was_one_with_others_goes_its_own_way_with_its_state() {
    let view = "SELECT auction, window_end, COUNT(*) AS n, SUM(price) AS total
  FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY auction, window_start, window_end";
    let sql = format!(
        "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, `dateTime` TIMESTAMP(3)>, ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '4' SECOND)
  WITH ('connector' = 'nexmark', 'events' = '100000', 'splits' = '2', 'rows-per-second' = '50000');
CREATE VIEW bids AS SELECT bid.auction, bid.price, ts FROM events WHERE event_type = 2;
CREATE VIEW totals AS {view};
CREATE TABLE counts (auction BIGINT, n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'counts', 'format' = 'json');
CREATE TABLE dear (auction BIGINT, window_end TIMESTAMP(3), total BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'dear', 'format' = 'json');
INSERT INTO counts SELECT auction, n FROM totals;
INSERT INTO dear SELECT auction, window_end, total FROM totals;"
    );
    let straight = Place::new(2, &sql.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    // All state is on the disk, and comes after the tasks have begun.
    let large = [("MILLRACE_STATE_MEMORY", "0"), ("MILLRACE_STATE_LAZY_FROM", "1")];
    let place = Place::new(2, &sql).with_env(&large);
    cut_off(&place, 1);
    // The same rows come out, and the plan cannot know it.
    let own = view.replace(" GROUP BY", " WHERE price > 0 GROUP BY").replacen('\n', " ", 1);
    let edited = sql.replace("total FROM totals;", &format!("total FROM ({own}) AS own;"));
    place.set_job(3, &edited);

    let mut job = place.start(&["--workers", "2"]);
    place.wait_until("a checkpoint is complete", || checkpoints(&place.log()) >= 1);
    job.kill().unwrap();
    job.wait().unwrap();
    assert!(place.log().contains("the SQL has changed, and goes on from the state"), "{}", place.log());
    assert!(place.log().contains("is_lazy=true"), "{}", place.log());
    // Then the one for which the state was kept is taken away.
    place.set_job(2, &edited.replace("INSERT INTO counts SELECT auction, n FROM totals;", ""));
    with_upgrade(&place, "{allowNonRestoredState: true}");
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(restored_epochs(&text(&output))[0] > restored_epochs(&place.log())[0], "{}", text(&output));
    assert_eq!(place.rows("dear"), straight.rows("dear"));
    assert!(!place.rows("dear").is_empty());
}

//! State that earlier releases have written is read by this one: for every format a folder with a job that was killed.

use std::fs;
use std::path::Path;

use super::harness::{Place, signal, text, wait_until};

const SQL: &str = "
CREATE TABLE events (
  event_type INT,
  bid ROW<auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, `dateTime` TIMESTAMP(3)>,
  ts AS bid.`dateTime`,
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH ('connector' = 'nexmark', 'events' = '8000', 'event-rate' = '1000', 'splits' = '2', 'rows-per-second' = '3000');
CREATE VIEW bids AS SELECT bid.auction, bid.bidder, bid.price, bid.channel, ts FROM events
  WHERE event_type = 2 AND MOD(bid.bidder, 3) = 0;
CREATE TABLE totals (channel STRING, window_end TIMESTAMP(3), n BIGINT, bidders BIGINT, mean BIGINT, top BIGINT)
  WITH ('connector' = 'filesystem', 'path' = 'totals', 'format' = 'json');
CREATE TABLE sessions (bidder BIGINT, window_start TIMESTAMP(3), window_end TIMESTAMP(3), total DECIMAL(20, 2))
  WITH ('connector' = 'filesystem', 'path' = 'sessions', 'format' = 'json');
CREATE TABLE counts (auction BIGINT, n BIGINT, bidders BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO totals SELECT channel, window_end, COUNT(*), COUNT(DISTINCT bidder), AVG(price), MAX(price)
  FROM TABLE(HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '6' SECOND))
  GROUP BY channel, window_start, window_end;
INSERT INTO sessions SELECT bidder, window_start, window_end, SUM(CAST(price AS DECIMAL(12, 2)))
  FROM TABLE(SESSION(TABLE bids PARTITION BY bidder, DESCRIPTOR(ts), INTERVAL '1' SECOND))
  GROUP BY bidder, window_start, window_end;
INSERT INTO counts SELECT auction, COUNT(*), COUNT(DISTINCT bidder) FROM bids GROUP BY auction;";

/// Folders of a job, and what they are called here: hidden ones are not committed.
const FOLDERS: [(&str, &str); 3] = [(".millrace", "state"), ("totals", "totals"), ("sessions", "sessions")];

/// Where the folders are, one for each format.
fn stored() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn jobs_go_on_from_the_state_of_every_format() {
    if std::env::var_os("MILLRACE_REGENERATE").is_some() {
        store();
    }
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '3000'", ""));
    let output = straight.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let format = millrace::checkpoint::records::FORMAT_VERSION;
    let mut formats = Vec::new();
    for entry in fs::read_dir(stored()).unwrap() {
        let folder = entry.unwrap().path();
        formats.push(folder.file_name().unwrap().to_str().unwrap().to_owned());
        let place = Place::new(3, SQL);
        for (name, stored) in FOLDERS {
            copy(&folder.join(stored), &place.path().join(name));
        }

        let mut job = place.start(&[]);

        assert!(job.wait().unwrap().success(), "{}: {}", folder.display(), place.log());
        let log = place.log();
        let restored = log.split("restored_epoch=").nth(1).unwrap().split(' ').next().unwrap();
        assert!(restored.parse::<u64>().unwrap() > 0, "{log}");
        for table in ["totals", "sessions"] {
            assert_eq!(place.rows(table), straight.rows(table), "{table} of {}", folder.display());
        }
    }
    assert!(formats.contains(&format!("format-{format}")), "the present format is not stored: {formats:?}");
}

/// Stores what a killed job of this release leaves.
fn store() {
    let place = Place::new(2, SQL);
    let mut job = place.start(&[]);
    wait_until("five checkpoints are complete", || place.log().matches("checkpoint complete").count() >= 5);
    signal(job.id(), libc::SIGKILL);
    job.wait().unwrap();
    let to = stored().join(format!("format-{}", millrace::checkpoint::records::FORMAT_VERSION));
    for (name, stored) in FOLDERS {
        copy(&place.path().join(name), &to.join(stored));
    }
}

/// A later release may refuse SQL that an earlier one has compiled: a job whose text is unchanged does not depend on it.
#[test]
fn a_job_goes_on_by_its_stored_plan_if_its_sql_is_not_compiled_any_more() {
    let place = Place::new(1, SQL);
    let mut job = place.start(&[]);
    place.wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    signal(job.id(), libc::SIGINT);
    assert!(job.wait().unwrap().success(), "{}", place.log());
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '3000'", ""));
    assert!(straight.run(&[]).status.success());
    let refused = SQL.replace("COUNT(*), COUNT(DISTINCT bidder), AVG(price)", "FORMERLY_COUNT(*)");
    place.set_job(1, &refused);
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(1), "the text is another one: {}", text(&output));

    let store: std::sync::Arc<dyn millrace::checkpoint::Store> = std::sync::Arc::new(
        millrace::checkpoint::FolderStore::new(place.path().join(".millrace/default/job")),
    );
    let sql = sql_of(&place);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(rewritten(&store, sql));
    let output = place.run(&[]);

    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("this release does not compile the SQL"), "{}", text(&output));
    assert_eq!(place.rows("totals"), straight.rows("totals"));
    assert_eq!(place.rows("sessions"), straight.rows("sessions"));
}

/// The SQL of a place's manifest, as it is read.
fn sql_of(place: &Place) -> String {
    let manifest = fs::read_to_string(place.path().join("job.yaml")).unwrap();
    let manifest = millrace_crds::manifest::read(&manifest).unwrap();
    manifest.spec.pipeline.sql
}

/// Publishes the newest checkpoint once more, as made by other SQL.
async fn rewritten(store: &std::sync::Arc<dyn millrace::checkpoint::Store>, sql: String) {
    use millrace::checkpoint::protocol::{self, JobIdentity};
    use millrace::checkpoint::{Checkpoints, Claimant};
    let owner = protocol::owner(store.as_ref()).await.unwrap().unwrap();
    let identity = JobIdentity {
        uid: millrace::model::JobUid(owner.uid),
        name: owner.name,
        attempt: millrace::model::Attempt(1),
        max_parallelism: millrace::model::MaxParallelism::new(owner.max_parallelism).unwrap(),
    };
    let safeguards = millrace::fault::Safeguards::default();
    let claimant = Claimant::new(1, 1);
    let taken = Checkpoints::take_over(std::sync::Arc::clone(store), identity, &claimant, safeguards);
    let taken = taken.await.unwrap();
    let newest = taken.restored.unwrap();
    let next = taken.checkpoints.manifest(taken.next_epoch, 1, newest.plan.clone().unwrap(), sql);
    let next = millrace::checkpoint::records::Manifest { subtasks: newest.subtasks, ..next };
    taken.checkpoints.publish(&next).await.unwrap();
}

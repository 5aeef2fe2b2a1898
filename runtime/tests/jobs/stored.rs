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

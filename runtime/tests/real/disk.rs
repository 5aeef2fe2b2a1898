//! A disk that is full: a small file system in memory, which needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Place;

const SQL: &str = "
CREATE TABLE events (event_type INT, bid ROW<auction BIGINT, price BIGINT, extra STRING, `dateTime` TIMESTAMP(3)>,
  ts AS bid.`dateTime`, WATERMARK FOR ts AS ts - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events' = '100000', 'splits' = '4', 'rows-per-second' = '50000');
CREATE TABLE bids (auction BIGINT, price BIGINT, extra STRING)
  WITH ('connector' = 'filesystem', 'path' = 'disk/bids', 'format' = 'json');
INSERT INTO bids SELECT bid.auction, bid.price, bid.extra FROM events WHERE event_type = 2;";

struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=512k", "tmpfs"], folder);
        Disk(folder.to_owned())
    }

    fn grow(&self) {
        mount(&["-o", "remount,size=256m"], &self.0);
    }
}

fn mount(options: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(options).arg(folder).output().unwrap();
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that was just killed may still hold a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What is counted is remembered until the end: many rows of state.
fn counted() -> String {
    SQL.replace(
        "FROM events WHERE event_type = 2",
        "FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' DAY)) WHERE event_type = 2 \
         GROUP BY window_start, window_end, bid.auction, bid.price, bid.extra",
    )
}

fn check(place: &Place, disk: &Disk, what: &str) {
    check_with(place, disk, what, SQL, &[]);
}

fn check_with(place: &Place, disk: &Disk, what: &str, sql: &str, arguments: &[&str]) {
    let mut job = place.start(arguments);
    place.wait_until("the full disk is named", || {
        let log = place.log();
        log.contains("No space left on device")
            && log.contains("make room, and the job goes on")
            && log.contains(what)
    });
    assert!(job.try_wait().unwrap().is_none(), "the job has ended: {}", place.log());

    disk.grow();

    assert!(job.wait().unwrap().success(), "{}", place.log());
    let straight = Place::new(1, &sql.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    let (found, expected) = (place.rows("disk/bids"), straight.rows("disk/bids"));
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
}

#[test]
fn results_on_a_full_disk_wait_until_there_is_room() {
    let place = Place::new(2, SQL);
    let disk = Disk::mount(&place.path().join("disk"));

    check(&place, &disk, "disk/bids");
}

/// Root may write everywhere; without this capability it is as any other user.
const AS_A_USER: [&str; 3] =
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"];

#[test]
fn results_and_checkpoints_in_folders_that_cannot_be_written_to_wait_until_they_can() {
    let place = Place::new(2, SQL);
    let mut job = place.start_through(&AS_A_USER);
    place.wait_until("a checkpoint is complete", || place.log().contains("checkpoint complete"));
    for (folder, named) in [("disk/bids", "disk/bids"), (".millrace/default/job/epochs", "'epochs/")] {
        let path = place.path().join(folder);
        let (before, known) = (fs::metadata(&path).unwrap().permissions(), place.log().len());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
        place.wait_until("the folder is named", || {
            let log = &place.log()[known..];
            log.contains("Permission denied") && log.contains(named) && log.contains("the right to use it")
        });
        fs::set_permissions(&path, before).unwrap();
        let complete = || place.log().matches("checkpoint complete").count();
        let before = complete();
        place.wait_until("checkpoints are complete again", || complete() > before);
    }
    assert!(job.wait().unwrap().success(), "{}", place.log());
    let straight = Place::new(1, &SQL.replace(", 'rows-per-second' = '50000'", ""));
    assert!(straight.run(&[]).status.success());
    assert!(place.rows("disk/bids") == straight.rows("disk/bids"));
}

#[test]
fn checkpoints_on_a_full_disk_wait_until_there_is_room() {
    let place = Place::new(2, SQL);
    let disk = Disk::mount(&place.path().join(".millrace"));
    // Something else has filled it.
    fs::write(place.path().join(".millrace/ballast"), vec![1; 500 << 10]).unwrap();

    check(&place, &disk, ".millrace");
}

#[test]
fn state_on_a_full_disk_waits_until_there_is_room() {
    let sql = counted();
    let place = Place::new(2, &sql);
    let disk = Disk::mount(&place.path().join("state"));

    check_with(&place, &disk, "'state'", &sql, &["--state-folder=state", "--state-memory=0"]);

    assert!(
        place.log().contains("recovering error=failed to write state to the local disk"),
        "{}",
        place.log()
    );
}

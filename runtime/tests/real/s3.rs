//! State in a bucket. `MILLRACE_TEST_S3` names the server's program.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Place, text, wait_until};

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
        let program = std::env::var("MILLRACE_TEST_S3")
            .expect("MILLRACE_TEST_S3 names the server; run `make test-real`");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
    let place = Place::new(2, SQL);
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
}

#[test]
fn a_missing_bucket_and_a_wrong_secret_are_named() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());

    let missing = place(&server, "millrace-secret").run(&[]);
    let text_of_missing = text(&missing);
    assert_eq!(missing.status.code(), Some(1), "{text_of_missing}");
    assert!(
        text_of_missing.contains("s3://state/jobs/default/job") && text_of_missing.contains("NoSuchBucket"),
        "{text_of_missing}"
    );

    fs::create_dir(data.path().join("state")).unwrap();
    let wrong = place(&server, "guessed").run(&[]);
    let text_of_wrong = text(&wrong);
    assert_eq!(wrong.status.code(), Some(1), "{text_of_wrong}");
    assert!(text_of_wrong.contains("SignatureDoesNotMatch"), "{text_of_wrong}");
}

//! Jobs on a real S3 server and a real Kafka broker. Run by `make test-real`, which builds them and names them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "jobs/harness.rs"]
mod harness;

#[path = "real/broker.rs"]
mod broker;
#[path = "real/disk.rs"]
mod disk;
#[path = "real/kafka.rs"]
mod kafka;
#[path = "real/replicas.rs"]
mod replicas;
#[path = "real/s3.rs"]
mod s3;
#[path = "real/transactions.rs"]
mod transactions;

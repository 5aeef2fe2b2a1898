//! Jobs run as a user runs them: the binary, a manifest, files in and out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod jobs {
    mod golden;
    mod harness;
    mod input;
    mod queries;
    mod recovery;
    mod simulation;
    mod stored;
    mod tools;
    mod upgrades;
}

//! Jobs run as a user runs them: the binary, a manifest, files in and out.

mod jobs {
    mod golden;
    mod harness;
    mod input;
    mod recovery;
}

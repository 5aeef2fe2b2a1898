//! Crashes on request, for tests: where a power cut would hit is chosen exactly.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// Variable that makes a process crash after its sources have given this many rows.
pub const CRASH_AFTER_ROWS: &str = "MILLRACE_TEST_CRASH_AFTER_ROWS";

/// Variable that makes a process crash at a [`CrashPoint`]: `record-written`, the third time `record-written:3`, and of several
/// processes only the first one that comes there `record-written@/path/of/a/mark`.
pub const CRASH_AT: &str = "MILLRACE_TEST_CRASH_AT";

/// Ends the process without a goodbye after some rows.
#[derive(Debug)]
pub struct CrashAfterRows {
    left: AtomicI64,
}

impl CrashAfterRows {
    /// As the variable says; `None` if it is not set.
    ///
    /// # Errors
    /// The variable's value, if it is not a number.
    pub fn from_env() -> Result<Option<Self>, String> {
        match std::env::var(CRASH_AFTER_ROWS) {
            Ok(rows) => match rows.parse() {
                Ok(rows) => Ok(Some(CrashAfterRows { left: AtomicI64::new(rows) })),
                Err(_) => Err(rows),
            },
            Err(_) => Ok(None),
        }
    }

    /// Some rows were processed.
    pub fn rows(&self, rows: usize) {
        if self.left.fetch_sub(rows as i64, Ordering::Relaxed) <= rows as i64 {
            std::process::abort();
        }
    }
}

macro_rules! crash_points {
    ($($(#[$meaning:meta])* $point:ident = $name:literal,)*) => {
        /// Between two steps that a crash must be able to divide.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CrashPoint {
            $($(#[$meaning])* $point,)*
        }

        impl CrashPoint {
            /// All of them, in the order in which a job comes to them.
            pub const ALL: &[CrashPoint] = &[$(CrashPoint::$point,)*];

            /// As [`CRASH_AT`] names it.
            pub fn name(self) -> &'static str {
                match self {
                    $(CrashPoint::$point => $name,)*
                }
            }
        }
    };
}

crash_points! {
    /// A coordinator has claimed a generation, and sealed no epoch yet.
    GenerationClaimed = "generation-claimed",
    /// It has sealed one, and read no checkpoint yet.
    EpochSealed = "epoch-sealed",
    /// It has committed the restored checkpoint again, and removed nothing of earlier generations yet.
    CommitReplayed = "commit-replayed",
    /// A worker has its tasks, and the coordinator does not know it yet.
    TasksDeployed = "tasks-deployed",
    /// All workers have their tasks, and none has been told to start.
    WorkersReady = "workers-ready",
    /// Workers have been told to take a checkpoint.
    CheckpointBegun = "checkpoint-begun",
    /// What a worker's sinks have prepared is durable, and its state is not.
    SinksPrepared = "sinks-prepared",
    /// Its state is, too, and the coordinator does not know it yet.
    StateStored = "state-stored",
    /// The coordinator has written a manifest that no record names yet.
    ManifestWritten = "manifest-written",
    /// The checkpoint is complete, and what its sinks have prepared is not visible yet.
    RecordWritten = "record-written",
    /// The first file of several is visible.
    FileShown = "file-shown",
    /// The first transaction of several is committed.
    TransactionCommitted = "transaction-committed",
    /// All results are visible, and no mark says so yet.
    ResultsCommitted = "results-committed",
    /// The mark does, and no worker knows it yet.
    CommitMarked = "commit-marked",
    /// Old checkpoints count no more, and are still there.
    FloorRaised = "floor-raised",
    /// The job has ended, and nobody has been told.
    JobFinished = "job-finished",
    /// Records of checkpoints were removed for good, and what they name is still there.
    RecordsErased = "records-erased",
}

/// Where to crash.
struct CrashAt {
    point: CrashPoint,
    /// How often it is still passed.
    left: AtomicI64,
    mark: Option<String>,
}

impl CrashAt {
    /// `None` if the variable names no point.
    fn of(text: &str) -> Option<Self> {
        let (place, mark) = text.split_once('@').map_or((text, None), |(place, mark)| (place, Some(mark)));
        let (name, times) =
            place.split_once(':').map_or((place, Some(1)), |(name, n)| (name, n.parse().ok()));
        let point = CrashPoint::ALL.iter().copied().find(|point| point.name() == name)?;
        Some(CrashAt { point, left: AtomicI64::new(times?), mark: mark.map(str::to_owned) })
    }
}

static CRASH: LazyLock<Option<CrashAt>> = LazyLock::new(|| {
    let text = std::env::var(CRASH_AT).ok()?;
    let crash = CrashAt::of(&text);
    if crash.is_none() {
        // Who asks for a crash that never comes would take a test for passed.
        eprintln!("{CRASH_AT}={text} names no point at which a process can crash");
        std::process::abort();
    }
    crash
});

/// Ends the process without a goodbye if it is to crash here.
pub fn crash_at(point: CrashPoint) {
    let Some(crash) = CRASH.as_ref().filter(|crash| crash.point == point) else { return };
    if crash.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    let mark = |path: &String| std::fs::File::create_new(path);
    if crash.mark.as_ref().is_none_or(|path| mark(path).is_ok()) {
        std::process::abort();
    }
}

/// What keeps results exact. All of it always holds; each can be taken away only to show that tests notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safeguards {
    /// A coordinator looks for newer generations before it publishes, and ends when its record's place is taken.
    pub checks_fence: bool,
    /// A new generation takes the next epoch's place before it starts.
    pub seals: bool,
    /// A new generation commits the restored checkpoint again unless it is marked.
    pub replays_commits: bool,
    /// A channel whose barrier has come waits for the others.
    pub aligns_barriers: bool,
    /// A segment is read once after it was written.
    pub verifies_segments: bool,
    /// What a worker still has in memory is used only if it is exactly the state of the restored checkpoint.
    pub compares_images: bool,
    /// A manifest is read back before a record names it.
    pub verifies_manifests: bool,
    /// An epoch that was given up gets an empty record before a later one is written.
    pub fills_gaps: bool,
    /// A job that has failed is at rest only once it has sealed an epoch since its tasks have run.
    pub rests_sealed: bool,
}

impl Default for Safeguards {
    fn default() -> Self {
        Safeguards {
            checks_fence: true,
            seals: true,
            replays_commits: true,
            aligns_barriers: true,
            verifies_segments: true,
            compares_images: true,
            verifies_manifests: true,
            fills_gaps: true,
            rests_sealed: true,
        }
    }
}

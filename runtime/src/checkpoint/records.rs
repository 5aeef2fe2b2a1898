//! The contents of the objects. Tags are never reused; every earlier form stays readable.

use millrace_sql::plan::Plan;

/// Version of these forms.
pub const FORMAT_VERSION: u32 = 1;

/// `job.pb`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobRecord {
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(uint32, tag = "2")]
    pub format: u32,
    #[prost(uint32, tag = "3")]
    pub max_parallelism: u32,
    #[prost(uint32, tag = "4")]
    pub key_encoding: u32,
    /// `<namespace>/<name>`, for messages.
    #[prost(string, tag = "5")]
    pub name: String,
}

/// `generations/<g>`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GenerationClaim {
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(uint64, tag = "2")]
    pub attempt: u64,
    /// Random: tells our own claim from a competitor's after a doubtful answer.
    #[prost(fixed64, tag = "3")]
    pub nonce: u64,
}

/// `epochs/<e>`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EpochRecord {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// Key of the manifest; empty: a seal, no checkpoint.
    #[prost(string, tag = "2")]
    pub manifest: String,
    #[prost(fixed64, tag = "3")]
    pub nonce: u64,
}

/// `commits/<e>` and `finished`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Marker {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
}

/// `manifests/<e>-<g>`: a checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Manifest {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    #[prost(uint64, tag = "5")]
    pub attempt: u64,
    #[prost(uint32, tag = "6")]
    pub parallelism: u32,
    #[prost(uint32, tag = "7")]
    pub max_parallelism: u32,
    #[prost(message, optional, tag = "8")]
    pub plan: Option<Plan>,
    /// The SQL that the plan was compiled from.
    #[prost(string, tag = "9")]
    pub sql: String,
    #[prost(message, repeated, tag = "10")]
    pub subtasks: Vec<SubtaskState>,
    #[prost(uint64, tag = "11")]
    pub created_ms: u64,
    /// All sources have ended and everything has been emitted.
    #[prost(bool, tag = "12")]
    pub is_final: bool,
    /// Bytes written for this checkpoint.
    #[prost(uint64, tag = "13")]
    pub bytes: u64,
}

/// State of one subtask of one operator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubtaskState {
    #[prost(string, tag = "1")]
    pub operator: String,
    #[prost(uint32, tag = "2")]
    pub subtask: u32,
    /// Owned key groups: from here …
    #[prost(uint32, tag = "3")]
    pub first_group: u32,
    /// … to before here.
    #[prost(uint32, tag = "4")]
    pub end_group: u32,
    /// Event time up to which the operator's windows have fired.
    #[prost(int64, optional, tag = "5")]
    pub watermark: Option<i64>,
    #[prost(message, repeated, tag = "6")]
    pub tables: Vec<TableState>,
    #[prost(message, repeated, tag = "7")]
    pub splits: Vec<SplitState>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub committables: Vec<Vec<u8>>,
    /// Rows read by a source or written by a sink since the job's first start.
    #[prost(uint64, tag = "9")]
    pub rows: u64,
    /// What the values of each column that a sink has taken add up to, since the job's first start.
    #[prost(fixed64, repeated, tag = "10")]
    pub checksums: Vec<u64>,
}

/// One part of a table: its runs, oldest first. A later run's row replaces an earlier one's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TableState {
    #[prost(string, tag = "1")]
    pub table: String,
    #[prost(int64, tag = "2")]
    pub namespace: i64,
    #[prost(message, repeated, tag = "3")]
    pub runs: Vec<Run>,
}

/// Rows in a segment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Run {
    /// Key of the segment.
    #[prost(string, tag = "1")]
    pub segment: String,
    /// Number of the run in the segment.
    #[prost(uint32, tag = "2")]
    pub run: u32,
    #[prost(uint64, tag = "3")]
    pub rows: u64,
    /// Key groups that are valid in it: from here …
    #[prost(uint32, tag = "4")]
    pub first_group: u32,
    /// … to before here.
    #[prost(uint32, tag = "5")]
    pub end_group: u32,
}

/// A source split.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SplitState {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub position: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub watermark: i64,
    /// The split was read to its end.
    #[prost(bool, tag = "4")]
    pub is_done: bool,
}

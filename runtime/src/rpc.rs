//! What coordinator and workers say to each other: length-prefixed prost messages over one connection per worker.
//!
//! The worker connects and registers; from then on both sides send. Either side closes the connection when it has heard
//! nothing for [`SILENCE_MAX`].

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millrace_sql::plan::Plan;
use prost::Message;
use snafu::{ResultExt, Snafu};
use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::checkpoint::records::SubtaskState;
use crate::transport::Stream;

/// Version of these messages; other versions are refused at registration.
pub const PROTOCOL_VERSION: u32 = 1;

/// How often both sides show that they live.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// A side that was silent for this long is taken for dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Manifests and plans of large jobs are some MiB; more is a broken stream.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A message could not be sent or received.
#[derive(Debug, Snafu)]
pub enum RpcError {
    #[snafu(display("the connection broke"))]
    Broken { source: std::io::Error },
    #[snafu(display("the connection was closed"))]
    Closed,
    #[snafu(display("a malformed message"))]
    Malformed { source: prost::DecodeError },
}

/// From a worker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromWorker {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    #[prost(oneof = "WorkerSays", tags = "2, 3, 4, 5, 6, 7")]
    pub says: Option<WorkerSays>,
}

/// What a worker says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum WorkerSays {
    #[prost(message, tag = "2")]
    Register(Register),
    #[prost(message, tag = "3")]
    Heartbeat(Heartbeat),
    /// All tasks are made and can receive.
    #[prost(message, tag = "4")]
    Deployed(Empty),
    #[prost(message, tag = "5")]
    Snapshot(Snapshot),
    #[prost(message, tag = "6")]
    Exhausted(Exhausted),
    #[prost(message, tag = "7")]
    Failed(Failed),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

/// A worker offers its slots.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Register {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(string, tag = "2")]
    pub job_uid: String,
    #[prost(uint64, tag = "3")]
    pub attempt: u64,
    #[prost(uint32, tag = "4")]
    pub slots: u32,
    /// Where other workers connect to.
    #[prost(string, tag = "5")]
    pub data_address: String,
    /// Process id on its machine, for messages.
    #[prost(uint32, tag = "6")]
    pub process: u32,
    /// Slots of which it has state in memory: they are rolled back fastest where they were.
    #[prost(uint32, repeated, tag = "7")]
    pub held: Vec<u32>,
}

/// Figures of a worker's tasks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heartbeat {
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<TaskReport>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskReport {
    #[prost(uint32, tag = "1")]
    pub chain: u32,
    #[prost(uint32, tag = "2")]
    pub subtask: u32,
    #[prost(uint64, tag = "3")]
    pub rows_in: u64,
    #[prost(uint64, tag = "4")]
    pub rows_out: u64,
    #[prost(int64, tag = "5")]
    pub watermark_ms: i64,
    #[prost(uint64, tag = "6")]
    pub late_rows: u64,
    #[prost(uint64, tag = "7")]
    pub state_bytes: u64,
    #[prost(uint64, tag = "8")]
    pub progress_ppm: u64,
    /// Records that are no rows and were left out, as the table's options want.
    #[prost(uint64, tag = "9")]
    pub skipped_records: u64,
    /// How the task has spent its time in this generation, in milliseconds: it waited for rows, …
    #[prost(uint64, tag = "10")]
    pub idle_ms: u64,
    /// … for those who take its rows, …
    #[prost(uint64, tag = "11")]
    pub backpressured_ms: u64,
    /// … or worked.
    #[prost(uint64, tag = "12")]
    pub busy_ms: u64,
    /// Records that are there and were not read yet, of sources that know it.
    #[prost(uint64, optional, tag = "13")]
    pub lag_records: Option<u64>,
    /// Memory of the rows that came in, and rows and memory of what left the chain, in this generation.
    #[prost(uint64, tag = "14")]
    pub bytes_in: u64,
    #[prost(uint64, tag = "15")]
    pub sent_rows: u64,
    #[prost(uint64, tag = "16")]
    pub sent_bytes: u64,
    /// Of the state, what is in memory; the rest is on the local disk.
    #[prost(uint64, tag = "17")]
    pub state_memory_bytes: u64,
    #[prost(message, repeated, tag = "18")]
    pub operators: Vec<OperatorReport>,
}

/// What an operator of a task has done in this generation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorReport {
    /// Its index in the plan.
    #[prost(uint32, tag = "1")]
    pub operator: u32,
    #[prost(uint64, tag = "2")]
    pub rows_in: u64,
    #[prost(uint64, tag = "3")]
    pub bytes_in: u64,
    #[prost(uint64, tag = "4")]
    pub rows_out: u64,
    #[prost(uint64, tag = "5")]
    pub bytes_out: u64,
    /// As of the newest barrier.
    #[prost(uint64, tag = "6")]
    pub state_bytes: u64,
    #[prost(uint64, tag = "7")]
    pub late_rows: u64,
}

/// A worker's part of a checkpoint is durable.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(message, repeated, tag = "2")]
    pub subtasks: Vec<SubtaskState>,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Why it is not durable; empty: it is.
    #[prost(string, tag = "4")]
    pub failure: String,
    /// The longest time that one of the tasks stood still for it, in microseconds.
    #[prost(uint64, tag = "5")]
    pub longest_stop_us: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Exhausted {
    #[prost(uint32, tag = "1")]
    pub chain: u32,
    #[prost(uint32, tag = "2")]
    pub subtask: u32,
}

/// A worker's tasks of a generation have ended early.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failed {
    #[prost(string, tag = "1")]
    pub message: String,
    /// The same would happen again.
    #[prost(bool, tag = "2")]
    pub is_permanent: bool,
    /// What kind of failure it is, in PascalCase.
    #[prost(string, tag = "3")]
    pub kind: String,
}

/// From the coordinator.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FromCoordinator {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    #[prost(oneof = "CoordinatorSays", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
    pub says: Option<CoordinatorSays>,
}

/// What the coordinator says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum CoordinatorSays {
    #[prost(message, tag = "2")]
    Welcome(Welcome),
    #[prost(message, tag = "3")]
    Alive(Empty),
    #[prost(message, tag = "4")]
    Deploy(Box<Deploy>),
    #[prost(message, tag = "5")]
    Start(Empty),
    /// Sources put the barrier of this epoch between their rows.
    #[prost(uint64, tag = "6")]
    Checkpoint(u64),
    /// End all tasks of this generation and of earlier ones.
    #[prost(message, tag = "7")]
    Cancel(Empty),
    /// The job is over or refused: the worker process ends. Carries the reason.
    #[prost(string, tag = "8")]
    Leave(String),
    /// The checkpoint of this epoch is complete, and its sinks have committed.
    #[prost(uint64, tag = "9")]
    Completed(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub worker: u32,
}

/// Everything that a worker needs to run its slots.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Deploy {
    #[prost(message, optional, tag = "1")]
    pub plan: Option<Plan>,
    #[prost(uint32, tag = "2")]
    pub parallelism: u32,
    #[prost(uint32, tag = "3")]
    pub max_parallelism: u32,
    /// Which worker runs which slot.
    #[prost(uint32, repeated, tag = "4")]
    pub slots: Vec<u32>,
    #[prost(message, repeated, tag = "5")]
    pub peers: Vec<Peer>,
    /// State of all subtasks of the restored checkpoint.
    #[prost(message, repeated, tag = "6")]
    pub restored: Vec<SubtaskState>,
    /// The first epoch that this generation takes.
    #[prost(uint64, tag = "7")]
    pub first_epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Peer {
    #[prost(uint32, tag = "1")]
    pub worker: u32,
    #[prost(string, tag = "2")]
    pub address: String,
}

/// The sending half of a connection.
pub struct MessageSender {
    frames: FramedWrite<WriteHalf<Stream>, LengthDelimitedCodec>,
}

/// The receiving half of a connection.
pub struct MessageReceiver {
    frames: FramedRead<ReadHalf<Stream>, LengthDelimitedCodec>,
}

/// Sends and receives messages over a stream.
pub fn messages(stream: Stream) -> (MessageSender, MessageReceiver) {
    let codec = || LengthDelimitedCodec::builder().max_frame_length(MESSAGE_BYTES_MAX).new_codec();
    let (reading, writing) = tokio::io::split(stream);
    (
        MessageSender { frames: FramedWrite::new(writing, codec()) },
        MessageReceiver { frames: FramedRead::new(reading, codec()) },
    )
}

impl MessageSender {
    /// Sends a message at once.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), RpcError> {
        self.frames.send(Bytes::from(message.encode_to_vec())).await.context(BrokenSnafu)
    }
}

impl MessageReceiver {
    /// The next message.
    pub async fn receive<T: Message + Default>(&mut self) -> Result<T, RpcError> {
        let bytes = self.frames.next().await.ok_or(RpcError::Closed)?.context(BrokenSnafu)?;
        T::decode(bytes).context(MalformedSnafu)
    }
}

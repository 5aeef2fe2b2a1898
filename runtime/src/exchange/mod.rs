//! How elements cross from task to task, in order per channel, with credits in bytes.
//!
//! ```text
//! task ─▶ Output (scatter, coalesce) ─▶ channel ─▶ Inbox ─▶ Gate (alignment, minimum) ─▶ task
//!                                          │ within a worker: a queue; between workers: one TCP connection a pair
//!                                          ◀── credits: what the consumer has taken
//! ```
//! Nothing here waits for a timer: rows leave when a batch is full or the consumer is idle.

pub mod channel;
pub mod frame;
pub mod gate;
pub mod network;
pub mod output;

pub use channel::{ChannelSender, Credit, Inbox};
pub use gate::{Gate, Passed};
pub use output::Output;

//! Prints rows as they come, for trying things out. At least once: after a failure rows may be printed again.
//!
//! A thread of its own prints: whoever reads standard output slowly, or not at all, holds up the rows that are printed, and neither
//! the threads of tasks nor signs of life.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use millrace_sql::plan::Table;
use parking_lot::Mutex;
use snafu::ResultExt;
use tokio::sync::{mpsc, oneshot};

use super::{Committable, IoSnafu, SinkConnector, SinkError, SinkWriter};
use crate::model::{Batch, Epoch, RowKind, Subtask};
use crate::options::TableOptions;

/// A writer with this much that is not printed takes no more rows.
const UNPRINTED_BYTES_MAX: usize = 1 << 20;

/// Standard output as a sink.
pub struct Print {
    prefix: String,
}

impl Print {
    /// Reads the option 'print-identifier'; without it the table's name stands before each row.
    pub fn new(options: &mut TableOptions<'_>, table: &Table) -> Self {
        Print { prefix: options.optional("print-identifier").unwrap_or_else(|| table.name.clone()) }
    }
}

impl SinkConnector for Print {
    fn writer(&self, subtask: Subtask) -> Result<Box<dyn SinkWriter>, SinkError> {
        let (texts, printed) = mpsc::unbounded_channel();
        let shared = Arc::<Shared>::default();
        let printer = Printer { texts: printed, shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name("millrace-print".to_owned())
            .spawn(move || printer.run())
            .context(IoSnafu { action: "start a thread that prints" })?;
        Ok(Box::new(PrintWriter { prefix: format!("{}:{}> ", self.prefix, subtask.0 + 1), texts, shared }))
    }
}

/// What a writer and its printer share.
#[derive(Default)]
struct Shared {
    unprinted: AtomicUsize,
    waker: AtomicWaker,
    failure: Mutex<Option<std::io::Error>>,
}

impl Shared {
    fn check(&self) -> Result<(), SinkError> {
        let failure = self.failure.lock().take();
        failure.map_or(Ok(()), |source| Err(SinkError::Io { action: "print".to_owned(), source }))
    }
}

enum Command {
    Print(String),
    /// Everything before it is printed.
    Told(oneshot::Sender<()>),
}

struct Printer {
    texts: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
}

impl Printer {
    /// Prints until the writer is gone, or nobody takes what is printed.
    fn run(mut self) {
        while let Some(command) = self.texts.blocking_recv() {
            match command {
                Command::Print(text) => {
                    if let Err(error) = std::io::stdout().lock().write_all(text.as_bytes()) {
                        *self.shared.failure.lock() = Some(error);
                        self.shared.waker.wake();
                        return;
                    }
                    self.shared.unprinted.fetch_sub(text.len(), Ordering::Relaxed);
                    self.shared.waker.wake();
                }
                // The checkpoint may have been given up.
                Command::Told(done) => drop(done.send(())),
            }
        }
    }
}

struct PrintWriter {
    prefix: String,
    texts: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

impl SinkWriter for PrintWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.shared.check()?;
        let options =
            FormatOptions::default().with_null("NULL").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
        let columns = batch.records.columns().iter();
        let columns = columns
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|error| SinkError::Data { message: error.to_string() })?;
        let mut text = String::new();
        for row in 0..batch.rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            let kind = batch.kinds.as_ref().map_or(RowKind::Insert, |kinds| kinds[row]);
            text.push_str(&format!("{}{}[{}]\n", self.prefix, kind.sign(), values.join(", ")));
        }
        self.shared.unprinted.fetch_add(text.len(), Ordering::Relaxed);
        // If the printer is gone, its failure is told by the next call.
        let _ = self.texts.send(Command::Print(text));
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.shared.waker.register(cx.waker());
        self.shared.check()?;
        match self.shared.unprinted.load(Ordering::Relaxed) < UNPRINTED_BYTES_MAX {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// What a checkpoint covers has been printed.
    fn prepare(&mut self, _: Epoch) -> BoxFuture<'static, Result<Vec<Committable>, SinkError>> {
        let (done, printed) = oneshot::channel();
        let _ = self.texts.send(Command::Told(done));
        let shared = Arc::clone(&self.shared);
        async move {
            match printed.await {
                Ok(()) => Ok(Vec::new()),
                Err(_) => {
                    shared.check()?;
                    let source = std::io::Error::other("the thread that prints has ended");
                    Err(SinkError::Io { action: "print".to_owned(), source })
                }
            }
        }
        .boxed()
    }
}

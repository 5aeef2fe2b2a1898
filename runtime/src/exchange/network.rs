//! Connections between workers: one per ordered pair, multiplexing the channels between their tasks.
//!
//! Batches and control go one way, credits come back on the same connection. A broken connection is reported and not
//! mended: the next generation connects anew.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use snafu::{ResultExt, Snafu};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{Notify, mpsc};

use super::channel::{ChannelClosed, Credit, CreditReturn, Inbox};
use super::frame::{self, FrameError, Handshake};
use crate::model::Element;
use crate::transport::Stream;

/// Frames queued for a socket. Credits bound the bytes; this bounds control frames.
const FRAMES_QUEUED_MAX: usize = 256;

/// Bytes of a connection's read buffer: a few small frames per system call.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// A connection failed.
#[derive(Debug, Snafu)]
pub enum NetworkError {
    #[snafu(display("failed to write to another worker"))]
    Write { source: std::io::Error },
    #[snafu(transparent)]
    Frame { source: FrameError },
    #[snafu(display("a frame for the unknown channel {channel}"))]
    UnknownChannel { channel: u32 },
}

/// One end of a connection, as channels use it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    frames: mpsc::Sender<Vec<u8>>,
    /// Credits not yet sent, by channel; merged so that their number is bounded by the channels.
    credits: Mutex<HashMap<u32, u64>>,
    credits_arrived: Notify,
}

/// Where a channel's elements go in the receiving worker.
#[derive(Clone)]
pub struct Route {
    pub inbox: Arc<Inbox>,
    pub channel: usize,
    pub schema: SchemaRef,
}

impl Connection {
    /// A connection and the queue that its writer drains.
    pub fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let shared = Shared { frames, credits: Mutex::default(), credits_arrived: Notify::new() };
        (Connection { shared: Arc::new(shared) }, queue)
    }

    /// Queues an element; the sender has taken its credit.
    pub async fn send(&self, channel: u32, element: Element, bytes: usize) -> Result<(), ChannelClosed> {
        let mut encoded = frame::encode_element(channel, &element).map_err(|_| ChannelClosed)?;
        if bytes > 0 {
            // What was taken is told with the batch, so that exactly this comes back.
            let mut body = frame::encode_credit(channel, bytes as u64);
            body.append(&mut encoded);
            encoded = body;
        }
        self.shared.frames.send(encoded).await.map_err(|_| ChannelClosed)
    }

    /// Notes a credit; it leaves with the next write.
    pub fn return_credit(&self, channel: u32, bytes: usize) {
        *self.shared.credits.lock().entry(channel).or_insert(0) += bytes as u64;
        self.shared.credits_arrived.notify_one();
    }
}

/// Runs the sending end: writes frames, reads credits. Ends when the connection breaks.
pub async fn run_sender(
    stream: Stream,
    hello: Handshake,
    mut queue: mpsc::Receiver<Vec<u8>>,
    credits: HashMap<u32, Arc<Credit>>,
) -> Result<(), NetworkError> {
    let (reading, writing) = tokio::io::split(stream);
    let write = async {
        let mut writing = BufWriter::new(writing);
        writing.write_all(&frame::encode_handshake(&hello)).await.context(WriteSnafu)?;
        writing.flush().await.context(WriteSnafu)?;
        while let Some(bytes) = queue.recv().await {
            writing.write_all(&bytes).await.context(WriteSnafu)?;
            if queue.is_empty() {
                writing.flush().await.context(WriteSnafu)?;
            }
        }
        Ok(())
    };
    let read = async {
        let mut reading = BufReader::new(reading);
        loop {
            let frame = frame::read(&mut reading).await?;
            if let (Some(credit), Some(bytes)) = (credits.get(&frame.channel), frame.credit()) {
                credit.give_back(bytes as usize);
            }
        }
    };
    tokio::select! {
        biased;
        ended = write => ended,
        ended = read => ended,
    }
}

/// Runs the receiving end, after its handshake was accepted: reads frames into inboxes, writes credits.
pub async fn run_receiver(
    reading: impl AsyncRead + Unpin,
    writing: impl AsyncWrite + Unpin,
    routes: HashMap<u32, Route>,
) -> Result<(), NetworkError> {
    let (connection, _queue) = Connection::new();
    for (id, route) in &routes {
        route.inbox.set_credit(route.channel, CreditReturn::Remote(connection.clone(), *id));
    }
    let write = write_credits(&connection, writing);
    let read = async {
        let mut reading = BufReader::with_capacity(READ_BUFFER_BYTES, reading);
        let mut taken = 0;
        loop {
            let frame = frame::read(&mut reading).await?;
            if let Some(bytes) = frame.credit() {
                taken = bytes as usize;
                continue;
            }
            let channel = frame.channel;
            let Some(route) = routes.get(&channel) else {
                return UnknownChannelSnafu { channel }.fail();
            };
            let element = frame.element(&route.schema)?;
            route.inbox.push(route.channel, element, std::mem::take(&mut taken));
        }
    };
    tokio::select! {
        biased;
        ended = write => ended,
        ended = read => ended,
    }
}

async fn write_credits(
    connection: &Connection,
    writing: impl AsyncWrite + Unpin,
) -> Result<(), NetworkError> {
    let mut writing = BufWriter::new(writing);
    loop {
        connection.shared.credits_arrived.notified().await;
        let credits: Vec<(u32, u64)> = connection.shared.credits.lock().drain().collect();
        for (channel, bytes) in credits {
            writing.write_all(&frame::encode_credit(channel, bytes)).await.context(WriteSnafu)?;
        }
        writing.flush().await.context(WriteSnafu)?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::Int64Type;

    use super::super::channel::{CHANNEL_CREDIT_BYTES, ChannelSender};
    use super::*;
    use crate::model::Batch;
    use crate::transport::{Tcp, Transport};

    const BATCHES: usize = 200;

    fn batch(number: usize) -> Batch {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![number as i64; 8 * 1024]));
        let records = RecordBatch::try_from_iter([("n", values)]).unwrap();
        Batch { records, kinds: None, hashes: None }
    }

    /// Lets others run until something holds.
    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    /// Over a real connection: a consumer that takes nothing stops its sender, and nobody else.
    #[tokio::test]
    async fn what_is_under_way_between_workers_is_bounded_for_each_channel() {
        let listener = Tcp.listen("127.0.0.1:0").await.unwrap();
        let address = format!("127.0.0.1:{}", listener.port());
        let (near, far) = tokio::join!(Tcp.connect(&address), listener.accept());
        let (slow, quick) = (Inbox::new(1), Inbox::new(1));
        let schema = batch(0).records.schema();
        let route =
            |inbox: &Arc<Inbox>| Route { inbox: Arc::clone(inbox), channel: 0, schema: schema.clone() };
        let routes = HashMap::from([(1, route(&slow)), (2, route(&quick))]);
        let (connection, queue) = Connection::new();
        let credits = HashMap::from([(1, Credit::new()), (2, Credit::new())]);
        let sender = |channel: u32| ChannelSender::Remote {
            connection: connection.clone(),
            channel,
            credit: Arc::clone(&credits[&channel]),
        };
        let (to_slow, to_quick) = (sender(1), sender(2));
        let sending = tokio::spawn(run_sender(near.unwrap(), Handshake::default(), queue, credits.clone()));
        let receiving = tokio::spawn(async move {
            let (mut reading, writing) = tokio::io::split(far.unwrap());
            frame::read(&mut reading).await.unwrap().handshake().unwrap();
            run_receiver(reading, writing, routes).await
        });
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let sends = tokio::spawn(async move {
            for number in 0..BATCHES {
                to_slow.send(Element::Batch(batch(number))).await.unwrap();
                count.fetch_add(1, Ordering::AcqRel);
            }
        });

        let at_most = CHANNEL_CREDIT_BYTES.div_ceil(batch(0).bytes());
        assert!((2..BATCHES / 4).contains(&at_most));
        until(|| sent.load(Ordering::Acquire) == at_most).await;
        for number in 0..BATCHES {
            to_quick.send(Element::Batch(batch(number))).await.unwrap();
            let (_, element) = quick.next(|_| false).await;
            assert!(matches!(element, Element::Batch(_)), "{number}");
        }
        assert_eq!(sent.load(Ordering::Acquire), at_most, "nothing was taken of what was sent");

        let mut taken = 0;
        while taken < BATCHES {
            let (_, Element::Batch(batch)) = slow.next(|_| false).await else { continue };
            let values = batch.records.column(0).as_primitive::<Int64Type>();
            assert_eq!(values.value(0), taken as i64);
            taken += 1;
            assert!(sent.load(Ordering::Acquire) <= at_most + taken);
        }
        sends.await.unwrap();
        assert_eq!(sent.load(Ordering::Acquire), BATCHES);
        sending.abort();
        receiving.abort();
    }
}

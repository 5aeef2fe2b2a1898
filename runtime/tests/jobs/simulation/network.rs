//! Streams between simulated processes: delayed, held back while one side is cut off, closed when one side dies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace::clock::Clock;
use millrace::transport::{Listener, Stream, Transport};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};

use super::world::Dice;

/// A simulated process.
pub type ProcessId = u32;

const BUFFER_BYTES: usize = 256 << 10;

/// All streams of a simulation.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
    clock: Clock,
    dice: Dice,
}

struct Shared {
    state: Mutex<State>,
    /// A process dies, is cut off, or comes back. Wakes in order of waiting, which keeps schedules the same.
    changes: Notify,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<String, (ProcessId, mpsc::UnboundedSender<Stream>)>,
    dead: BTreeSet<ProcessId>,
    cut: BTreeSet<ProcessId>,
    connections: BTreeMap<(ProcessId, ProcessId), u64>,
    next_port: u16,
    delays: u64,
}

impl Network {
    pub fn new(clock: Clock, dice: Dice) -> Self {
        let shared = Shared { state: Mutex::default(), changes: Notify::new() };
        Network { shared: Arc::new(shared), clock, dice }
    }

    pub fn of(&self, process: ProcessId) -> Endpoint {
        Endpoint { process, network: self.clone() }
    }

    /// Closes everything that a process has.
    pub fn kill(&self, process: ProcessId) {
        let mut state = self.shared.state.lock();
        state.dead.insert(process);
        state.listeners.retain(|_, (owner, _)| *owner != process);
        drop(state);
        self.shared.changes.notify_waiters();
    }

    /// Holds back what a process sends and receives, or lets it through again.
    pub fn set_cut(&self, process: ProcessId, is_cut: bool) {
        let mut state = self.shared.state.lock();
        match is_cut {
            true => state.cut.insert(process),
            false => state.cut.remove(&process),
        };
        drop(state);
        self.shared.changes.notify_waiters();
    }

    /// How often bytes were on their way for long enough that others overtook them on other connections.
    pub fn delays(&self) -> u64 {
        self.shared.state.lock().delays
    }

    fn is_dead(&self, process: ProcessId) -> bool {
        self.shared.state.lock().dead.contains(&process)
    }

    fn is_held(&self, from: ProcessId, to: ProcessId) -> bool {
        let state = self.shared.state.lock();
        state.cut.contains(&from) || state.cut.contains(&to)
    }

    /// Carries bytes one way until either side is gone.
    async fn carry(
        self,
        mut from: tokio::io::ReadHalf<DuplexStream>,
        mut to: tokio::io::WriteHalf<DuplexStream>,
        ends: (ProcessId, ProcessId),
        name: String,
    ) {
        let mut buffer = vec![0; 64 << 10];
        let mut count = 0_u64;
        loop {
            let read = tokio::select! {
                biased;
                () = self.until(|network| network.is_gone(ends)) => return,
                read = from.read(&mut buffer) => read.unwrap_or(0),
            };
            if read == 0 {
                return;
            }
            count += 1;
            let delay = self.dice.delay_ms(&format!("{name} {count}"));
            self.shared.state.lock().delays += u64::from(delay > 0);
            self.clock.sleep(Duration::from_millis(delay)).await;
            self.until(|network| network.is_gone(ends) || !network.is_held(ends.0, ends.1)).await;
            if self.is_gone(ends) {
                return;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    fn is_gone(&self, ends: (ProcessId, ProcessId)) -> bool {
        self.is_dead(ends.0) || self.is_dead(ends.1)
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changes.notified());
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }
}

/// The network as one process sees it.
#[derive(Clone)]
pub struct Endpoint {
    process: ProcessId,
    network: Network,
}

#[async_trait]
impl Transport for Endpoint {
    async fn connect(&self, address: &str) -> io::Result<Stream> {
        let network = &self.network;
        let delay = network.dice.delay_ms(&format!("connect {} {address}", self.process));
        network.clock.sleep(Duration::from_millis(delay)).await;
        let (peer, sender, number) = {
            let mut state = network.shared.state.lock();
            let Some((peer, sender)) = state.listeners.get(address).cloned() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            if state.dead.contains(&self.process)
                || state.cut.contains(&self.process)
                || state.cut.contains(&peer)
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let number = state.connections.entry((self.process, peer)).or_default();
            *number += 1;
            (peer, sender, *number)
        };
        let (ours, far) = tokio::io::duplex(BUFFER_BYTES);
        let (near, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let ((far_read, far_write), (near_read, near_write)) =
            (tokio::io::split(far), tokio::io::split(near));
        let name = |from: ProcessId, to: ProcessId| format!("{from}>{to} {number}");
        let (there, back) = ((self.process, peer), (peer, self.process));
        tokio::spawn(network.clone().carry(far_read, near_write, there, name(there.0, there.1)));
        tokio::spawn(network.clone().carry(near_read, far_write, back, name(back.0, back.1)));
        sender.send(Box::new(theirs)).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(Box::new(ours))
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let mut state = self.network.shared.state.lock();
        state.next_port += 1;
        let port = state.next_port;
        let address = match address.strip_suffix(":0") {
            Some(host) => format!("{host}:{port}"),
            None => address.to_owned(),
        };
        let (sender, streams) = mpsc::unbounded_channel();
        state.listeners.insert(address, (self.process, sender));
        Ok(Box::new(Door { port, streams: tokio::sync::Mutex::new(streams) }))
    }
}

struct Door {
    port: u16,
    streams: tokio::sync::Mutex<mpsc::UnboundedReceiver<Stream>>,
}

#[async_trait]
impl Listener for Door {
    fn port(&self) -> u16 {
        self.port
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self.streams.lock().await.recv().await {
            Some(stream) => Ok(stream),
            // Another process has taken the address over.
            None => std::future::pending().await,
        }
    }
}

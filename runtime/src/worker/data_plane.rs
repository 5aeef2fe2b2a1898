//! Accepts connections of other workers and hands them to the generation that they belong to.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::exchange::frame::{self, Handshake, MAGIC, PROTOCOL_VERSION};
use crate::exchange::network::{Route, run_receiver};
use crate::model::{Generation, JobUid, WorkerId};
use crate::transport::{Listener, Stream};

/// The receiving side of all connections between workers.
pub struct DataPlane {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    job: JobUid,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    worker: WorkerId,
    expected: Option<Expected>,
}

/// What the running generation expects to receive.
struct Expected {
    generation: Generation,
    routes: HashMap<WorkerId, HashMap<u32, Route>>,
    broken: mpsc::Sender<String>,
    ended: CancellationToken,
}

impl DataPlane {
    /// Accepts connections until dropped.
    pub fn new(listener: Box<dyn Listener>, job: JobUid) -> Self {
        let shared = Arc::new(Shared { job, state: Mutex::default() });
        let port = listener.port();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        DataPlane { port, shared, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets who this worker is.
    pub fn set_worker(&self, worker: WorkerId) {
        self.shared.state.lock().worker = worker;
    }

    /// Expects connections of a generation. `broken` is told when one of them breaks.
    pub fn expect(
        &self,
        generation: Generation,
        routes: HashMap<WorkerId, HashMap<u32, Route>>,
        broken: mpsc::Sender<String>,
    ) {
        self.clear();
        let ended = CancellationToken::new();
        self.shared.state.lock().expected = Some(Expected { generation, routes, broken, ended });
    }

    /// Closes all connections and refuses new ones.
    pub fn clear(&self) {
        if let Some(expected) = self.shared.state.lock().expected.take() {
            expected.ended.cancel();
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.clear();
        self.accepting.abort();
    }
}

async fn accept(listener: Box<dyn Listener>, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok(stream) => drop(tokio::spawn(serve(stream, Arc::clone(&shared)))),
            Err(error) => {
                warn!(%error, "failed to accept a connection of another worker");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn serve(mut stream: Stream, shared: Arc<Shared>) {
    let Ok(first) = frame::read(&mut stream).await else { return };
    let Some(hello) = first.handshake() else { return };
    let Some((routes, broken, ended)) = shared.admit(&hello) else {
        debug!(?hello, "refused a connection that is not for the running generation");
        return;
    };
    let (reading, writing) = tokio::io::split(stream);
    tokio::select! {
        biased;
        result = run_receiver(reading, writing, routes) => {
            if let Err(error) = result {
                let reason = format!("lost the connection from worker {}: {}", hello.from, crate::error::chain(&error));
                // The generation may have ended meanwhile.
                let _ = broken.try_send(reason);
            }
        }
        () = ended.cancelled() => {}
    }
}

type Admitted = (HashMap<u32, Route>, mpsc::Sender<String>, CancellationToken);

impl Shared {
    /// The routes of a connection, if it belongs to the running generation.
    fn admit(&self, hello: &Handshake) -> Option<Admitted> {
        let mut state = self.state.lock();
        let worker = state.worker;
        let expected = state.expected.as_mut()?;
        if !is_for(hello, &self.job, expected.generation, worker) {
            return None;
        }
        let routes = expected.routes.remove(&WorkerId(hello.from))?;
        Some((routes, expected.broken.clone(), expected.ended.clone()))
    }
}

/// True if a connection is for this worker in this generation of this job, and speaks as it does. Addresses of pods are used again by
/// others: whoever connects may mean another one.
fn is_for(hello: &Handshake, job: &JobUid, generation: Generation, worker: WorkerId) -> bool {
    let ours = Handshake {
        magic: MAGIC,
        protocol: PROTOCOL_VERSION,
        job_uid: job.0.clone(),
        generation: generation.0,
        from: hello.from,
        to: worker.0,
    };
    *hello == ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_mismatch_closes_a_connection() {
        let right = Handshake {
            magic: MAGIC,
            protocol: PROTOCOL_VERSION,
            job_uid: "a".to_owned(),
            generation: 7,
            from: 1,
            to: 2,
        };
        let cases = [
            ("right", right.clone(), true),
            ("from another worker", Handshake { from: 3, ..right.clone() }, true),
            ("no handshake", Handshake { magic: MAGIC + 1, ..right.clone() }, false),
            ("another protocol", Handshake { protocol: PROTOCOL_VERSION + 1, ..right.clone() }, false),
            ("another job", Handshake { job_uid: "b".to_owned(), ..right.clone() }, false),
            ("an older generation", Handshake { generation: 6, ..right.clone() }, false),
            ("a newer generation", Handshake { generation: 8, ..right.clone() }, false),
            ("another worker is meant", Handshake { to: 3, ..right.clone() }, false),
        ];
        for (case, hello, expected) in cases {
            let found = is_for(&hello, &JobUid("a".to_owned()), Generation(7), WorkerId(2));

            assert_eq!(found, expected, "{case}");
        }
    }
}

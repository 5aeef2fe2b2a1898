//! The way to the S3 server, which can be made to answer nothing but errors.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use snafu::{OptionExt, ResultExt};

use crate::outside::Outcome;

const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Hands connections on to the S3 server, for as long as this program runs.
pub struct Way {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_out: bool,
    /// Both ends of what is handed on.
    open: Vec<TcpStream>,
}

impl Way {
    /// Beside the S3 server, at a port of its own.
    pub fn new() -> Outcome<Self> {
        let server = std::env::var("MILLRACE_S3").whatever_context("MILLRACE_S3 is not set")?;
        let server = server.trim_start_matches("http://").to_owned();
        let (host, _) = server.rsplit_once(':').whatever_context("MILLRACE_S3 has no port")?;
        let listener =
            TcpListener::bind((host, 0)).whatever_context("failed to listen beside the S3 server")?;
        let address = listener.local_addr().whatever_context("failed to listen beside the S3 server")?;
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                std::thread::spawn(move || {
                    // Whoever loses a connection tries again.
                    let _ = serve(stream, &server, &state);
                });
            }
        });
        Ok(Way { address: format!("http://{address}"), state })
    }

    /// Where jobs find the store.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on every request is answered with 503, or none is.
    pub fn set_out(&self, is_out: bool) {
        let mut state = lock(&self.state);
        state.is_out = is_out;
        for stream in state.open.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut client: TcpStream, server: &str, state: &Mutex<State>) -> io::Result<()> {
    let mut server = {
        // Under the lock: no connection is handed on that the beginning of an outage does not see.
        let mut state = lock(state);
        if state.is_out {
            drop(state);
            let _ = client.read(&mut [0; 65_536])?;
            return client.write_all(UNAVAILABLE);
        }
        let server = TcpStream::connect(server)?;
        state.open.extend([client.try_clone()?, server.try_clone()?]);
        server
    };
    let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        let copied = io::copy(&mut answers, &mut to_client);
        let closed = to_client.shutdown(Shutdown::Write);
        copied.and(closed)
    });
    let there = io::copy(&mut client, &mut server);
    // One side may be gone altogether.
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    there.map(|_| ())
}

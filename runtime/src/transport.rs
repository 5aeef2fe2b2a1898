//! Byte streams between processes, injected so that the simulation can lose, delay and cut them.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// How long one try to connect may take: some round trips within a cluster. Callers try again.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A peer whose kernel has said nothing for so long is gone: no later than one that sends no heartbeats, by twice.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// A connection in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open connection.
pub type Stream = Box<dyn Duplex>;

/// Makes and accepts connections.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Connects to an address; names are resolved anew at every call.
    async fn connect(&self, address: &str) -> io::Result<Stream>;

    /// Accepts connections at an address; port 0 chooses a free one.
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;
}

/// Accepts connections.
#[async_trait]
pub trait Listener: Send + Sync {
    /// Where peers connect to.
    fn port(&self) -> u16;

    /// The next connection.
    async fn accept(&self) -> io::Result<Stream>;
}

/// TCP.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

#[async_trait]
impl Transport for Tcp {
    #[expect(clippy::disallowed_methods, reason = "the edge: the simulation has connections of its own")]
    async fn connect(&self, address: &str) -> io::Result<Stream> {
        // A Service may lead to a pod of a dead node: the kernel would try that one for more than a minute.
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        prepare(&stream)?;
        Ok(Box::new(stream))
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }
}

#[async_trait]
impl Listener for TcpListener {
    fn port(&self) -> u16 {
        self.local_addr().map_or(0, |address| address.port())
    }

    async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = TcpListener::accept(self).await?;
        prepare(&stream)?;
        Ok(Box::new(stream))
    }
}

/// Small frames go at once, and a peer that is cut off is noticed by the kernel. Heartbeats are between workers and the coordinator
/// only, and between two workers alone a cable may be cut as well. Whoever is slow reads on, for credits bound what is on the way.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(SILENCE_MAX / 2).with_interval(SILENCE_MAX / 8).with_retries(4),
    )?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_cut_off_is_noticed_by_either_side() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        for stream in [near, far] {
            prepare(&stream).unwrap();

            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE_MAX));
            let unanswered =
                socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
            assert_eq!(socket.tcp_keepalive_time().unwrap() + unanswered, SILENCE_MAX);
        }
    }
}

//! Byte streams between processes, injected so that the simulation can lose, delay and cut them.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// How long one try to connect may take: some round trips within a cluster. Callers try again.
const CONNECT_MAX: Duration = Duration::from_secs(1);

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
        stream.set_nodelay(true)?;
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
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

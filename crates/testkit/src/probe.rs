//! One question: does a connection come through?

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "result", content = "detail")]
pub enum Outcome {
    /// Answered with this text.
    Ok(String),
    /// Nothing came back in time: dropped on the way.
    Timeout,
    /// Actively refused (RST or ICMP unreachable).
    Refused,
    /// Something else failed, e.g. no route or a name that does not resolve.
    Failed(String),
}

impl Outcome {
    fn from_error(e: &std::io::Error) -> Self {
        match e.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Failed(e.to_string()),
        }
    }
}

/// Connects, sends one byte, reads the answer's first line.
pub async fn tcp(target: SocketAddr, timeout: Duration) -> Outcome {
    let ask = async {
        let mut c = TcpStream::connect(target).await?;
        c.write_all(b"?").await?;
        let mut text = String::new();
        c.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text.trim().to_owned())
    };
    finish(tokio::time::timeout(timeout, ask).await)
}

/// Only the handshake.
pub async fn connect(target: SocketAddr, timeout: Duration) -> Outcome {
    let ask = async { TcpStream::connect(target).await.map(|_| String::new()) };
    finish(tokio::time::timeout(timeout, ask).await)
}

/// Sends one datagram of `size` bytes from a connected socket (so that ICMP errors come back) and waits for its echo.
/// The detail is the number of bytes that came back.
pub async fn udp(target: SocketAddr, size: usize, timeout: Duration) -> Outcome {
    let ask = async {
        let local: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let s = UdpSocket::bind(local).await?;
        s.connect(target).await?;
        s.send(&vec![b'?'; size]).await?;
        let mut buffer = vec![0u8; size + 1];
        let n = s.recv(&mut buffer).await?;
        Ok::<_, std::io::Error>(n.to_string())
    };
    finish(tokio::time::timeout(timeout, ask).await)
}

fn finish(r: Result<std::io::Result<String>, tokio::time::error::Elapsed>) -> Outcome {
    match r {
        Ok(Ok(text)) => Outcome::Ok(text),
        Ok(Err(e)) => Outcome::from_error(&e),
        Err(_) => Outcome::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn served_port_answers_and_closed_port_refuses() {
        let free = |l: std::net::TcpListener| l.local_addr().expect("bound").port();
        let port = free(std::net::TcpListener::bind("[::]:0").expect("bind"));
        let closed = free(std::net::TcpListener::bind("[::]:0").expect("bind"));
        let server = tokio::task::spawn(async move { crate::serve::serve("web".into(), &[port], &[port]).await });
        let at = |p| SocketAddr::from(([127, 0, 0, 1], p));
        let limit = Duration::from_secs(5);
        let mut answer = tcp(at(port), limit).await;
        while answer == Outcome::Refused {
            tokio::task::yield_now().await;
            answer = tcp(at(port), limit).await;
        }
        assert_eq!(answer, Outcome::Ok("web 127.0.0.1".into()));
        assert_eq!(udp(at(port), 4000, limit).await, Outcome::Ok("4000".into()));
        assert_eq!(connect(at(port), limit).await, Outcome::Ok(String::new()));
        assert_eq!(tcp(at(closed), limit).await, Outcome::Refused);
        assert_eq!(connect(at(closed), limit).await, Outcome::Refused);
        assert_eq!(udp(at(closed), 1, limit).await, Outcome::Refused);
        server.abort();
    }
}

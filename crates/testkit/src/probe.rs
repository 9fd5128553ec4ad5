//! One question: does a connection come through?

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
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

/// Sends an ICMP echo request (type 8, or 128 of ICMPv6) and waits for its reply. Needs `CAP_NET_RAW`.
pub async fn echo(target: IpAddr, timeout: Duration) -> Outcome {
    match tokio::task::spawn_blocking(move || echo_blocking(target, timeout)).await {
        Ok(Ok(())) => Outcome::Ok(String::new()),
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Outcome::Timeout,
        Ok(Err(e)) => Outcome::from_error(&e),
        Err(e) => Outcome::Failed(e.to_string()),
    }
}

fn echo_blocking(target: IpAddr, timeout: Duration) -> std::io::Result<()> {
    let (domain, protocol, request, reply) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    // of the process and the probe: another's reply is not ours
    let id = u32::from(std::process::id() as u16) << 16 | u32::from(PROBES.fetch_add(1, Ordering::Relaxed));
    // the kernel computes the checksum of ICMPv6 only
    let sum = (u32::from(request) << 8) + (id >> 16) + (id & 0xffff);
    let checksum = if target.is_ipv4() { !((sum & 0xffff) + (sum >> 16)) as u16 } else { 0 };
    let packet = [&[request, 0], &checksum.to_be_bytes()[..], &id.to_be_bytes()].concat();
    socket.send(&packet)?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 256];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let n = socket.read(&mut buffer)?;
        let Some(packet) = buffer.get(..n) else { continue };
        // IPv4 comes with its header
        let header = packet.first().filter(|_| target.is_ipv4()).map_or(0, |b| usize::from(b & 15) * 4);
        let Some(message) = packet.get(header..) else { continue };
        if message.first() == Some(&reply) && message.get(4..8) == Some(&id.to_be_bytes()) {
            return Ok(());
        }
    }
}

/// Sends a datagram of `size` bytes again and again until its echo comes, as a protocol above would: the first ones are
/// lost where the path is narrower than the first link, until the word of a router about that has come back. The
/// detail is the number of datagrams that were sent.
pub async fn persistent(target: SocketAddr, size: usize, timeout: Duration) -> Outcome {
    let local: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let ask = async {
        let s = UdpSocket::bind(local).await?;
        s.connect(target).await?;
        let mut buffer = vec![0u8; size + 1];
        for n in 1u32.. {
            // the router's word may come as an error of this call, once
            let sent = s.send(&vec![b'?'; size]).await;
            if sent.is_ok() && matches!(tokio::time::timeout(RESEND, s.recv(&mut buffer)).await, Ok(Ok(_))) {
                return Ok(n.to_string());
            }
            tokio::time::sleep(RESEND / 10).await;
        }
        Err(ErrorKind::TimedOut.into())
    };
    finish(tokio::time::timeout(timeout, ask).await)
}

/// Echo requests of this process.
static PROBES: AtomicU16 = AtomicU16::new(1);

/// Longer than an echo takes on a busy machine.
const RESEND: Duration = Duration::from_millis(200);

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
        assert_eq!(persistent(at(port), 1400, limit).await, Outcome::Ok("1".into()));
        assert_eq!(persistent(at(closed), 1, Duration::from_millis(300)).await, Outcome::Timeout);
        server.abort();
    }
}

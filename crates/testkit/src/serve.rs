//! A server that answers on any number of TCP and UDP ports.
//!
//! TCP: reads one byte or one HTTP request head, answers `NAME PEER\n` (as an HTTP/1.1 response to a request that
//! starts with `GET`), or echoes frames once the first byte is `E`. UDP: echoes each datagram.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// First byte of a connection that wants its bytes back.
pub const ECHO: u8 = b'E';
const IDLE: Duration = Duration::from_mins(10);

/// Serves until an error or the end of the process. Ports are bound on all addresses, IPv4 and IPv6.
pub async fn serve(name: String, tcp: &[u16], udp: &[u16]) -> anyhow::Result<()> {
    let name: Arc<str> = name.into();
    let mut tasks = tokio::task::JoinSet::new();
    for &port in tcp {
        let listener = TcpListener::bind(any(port)).await.with_context(|| format!("bind TCP port {port}"))?;
        tasks.spawn(accept(listener, name.clone()));
    }
    for &port in udp {
        let socket = UdpSocket::bind(any(port)).await.with_context(|| format!("bind UDP port {port}"))?;
        crate::stream::patient(&socket);
        tasks.spawn(echo_datagrams(socket));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("server task")??;
    }
    Ok(())
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

async fn accept(listener: TcpListener, name: Arc<str>) -> anyhow::Result<()> {
    loop {
        // out of descriptors or a vanished peer: the listener itself is fine
        let Ok((connection, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let name = name.clone();
        tokio::spawn(async move {
            // a client that leaves early is the client's business
            let _ = tokio::time::timeout(IDLE, answer(connection, peer, &name)).await;
        });
    }
}

async fn answer(mut connection: TcpStream, peer: SocketAddr, name: &str) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = vec![0u8; 4096];
    let n = connection.read(&mut buffer).await?;
    let head = buffer.get(..n).unwrap_or_default();
    if head.first() == Some(&ECHO) {
        return echo(connection, buffer, n).await;
    }
    let body = format!("{name} {}\n", peer.ip().to_canonical());
    if head.starts_with(b"GET ") {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        connection.write_all(text.as_bytes()).await?;
    } else {
        connection.write_all(body.as_bytes()).await?;
    }
    connection.shutdown().await
}

async fn echo(mut connection: TcpStream, mut buffer: Vec<u8>, mut n: usize) -> std::io::Result<()> {
    while n > 0 {
        connection.write_all(buffer.get(..n).unwrap_or_default()).await?;
        n = connection.read(&mut buffer).await?;
    }
    Ok(())
}

async fn echo_datagrams(socket: UdpSocket) -> anyhow::Result<()> {
    let mut buffer = vec![0u8; 65536];
    loop {
        // an ICMP error of an earlier answer surfaces here: not an end
        let Ok((n, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let _ = socket.send_to(buffer.get(..n).unwrap_or_default(), peer).await;
    }
}

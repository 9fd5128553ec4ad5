//! A numbered packet stream that counts what is lost.
//!
//! UDP datagrams of 16 bytes (sequence number, send time) at a fixed rate to an echo server. A number that has not come
//! back a while after the last was sent is lost. The longest gap between two answers tells how long nothing passed.
//! TCP: the same numbers as frames on one connection; a cut connection is counted, never hidden by a reconnect.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

/// What a stream saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    /// Answers that came twice.
    pub duplicated: u64,
    /// `send` calls that failed (no route, refused): counted as sent and lost too.
    pub send_errors: u64,
    /// TCP only: the connection ended before the stream did.
    pub cut: u64,
    /// Longest time between two answers, in milliseconds.
    pub longest_gap_ms: u64,
}

/// How many, how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub packets: u64,
    /// Packets a second.
    pub rate: u32,
    /// How long to wait for stragglers.
    pub linger: Duration,
}

const FRAME: usize = 16;

/// Bytes that wait in a socket until its process runs: some 10,000 datagrams, of which the kernel counts each as 768.
const WAITING: usize = 8 << 20;

/// Gives a socket room for what arrives while its process does not run, so that a datagram that was delivered is not
/// counted as lost on the way. Without `CAP_NET_ADMIN` the room is as the kernel has it.
pub(crate) fn patient(socket: &UdpSocket) {
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &WAITING);
}

fn frame(number: u64) -> [u8; FRAME] {
    let mut f = [0u8; FRAME];
    let (head, _) = f.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    f
}

fn number(frame: &[u8]) -> Option<u64> {
    frame.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
}

struct Tally {
    seen: Vec<bool>,
    report: Report,
    last: Instant,
}

impl Tally {
    fn new(packets: u64) -> Self {
        let seen = vec![false; usize::try_from(packets).unwrap_or(usize::MAX)];
        Self { seen, report: Report::default(), last: Instant::now() }
    }

    fn answer(&mut self, n: u64) {
        let gap = u64::try_from(self.last.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.report.longest_gap_ms = self.report.longest_gap_ms.max(gap);
        self.last = Instant::now();
        match usize::try_from(n).ok().and_then(|i| self.seen.get_mut(i)) {
            Some(s) if !*s => {
                *s = true;
                self.report.received += 1;
            }
            _ => self.report.duplicated += 1,
        }
    }

    fn finish(mut self) -> Report {
        self.report.lost = self.report.sent - self.report.received;
        self.report
    }
}

/// A UDP stream to an echo server, or to the same port of `addresses` from the target's on, in turn. When `stop` ends,
/// nothing more is sent and the stream ends as if it had been that long.
pub async fn udp(
    target: SocketAddr,
    addresses: u32,
    plan: Plan,
    stop: impl Future<Output = ()>,
) -> std::io::Result<Report> {
    let local: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    patient(&socket);
    if addresses <= 1 {
        socket.connect(target).await?;
    }
    let several: Vec<SocketAddr> = (0..addresses).map(|n| later(target, n)).collect();
    let mut targets = several.iter().cycle().copied();
    let mut tally = Tally::new(plan.packets);
    let mut tick = ticker(plan.rate);
    let mut buffer = [0u8; 64];
    let mut stop = pin!(stop);
    while tally.report.sent < plan.packets {
        tokio::select! {
            () = &mut stop => break,
            _ = tick.tick() => {
                let frame = frame(tally.report.sent);
                let sent = match targets.next().filter(|_| addresses > 1) {
                    Some(to) => socket.send_to(&frame, to).await,
                    None => socket.send(&frame).await,
                };
                if sent.is_err() { tally.report.send_errors += 1; }
                tally.report.sent += 1;
            }
            r = socket.recv(&mut buffer) => if let Ok(n) = r { take(&mut tally, buffer.get(..n)); },
        }
    }
    let end = tokio::time::Instant::now() + plan.linger;
    while tally.report.received < tally.report.sent {
        match tokio::time::timeout_at(end, socket.recv(&mut buffer)).await {
            Ok(Ok(n)) => take(&mut tally, buffer.get(..n)),
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    Ok(tally.finish())
}

/// The address that comes so many after this one.
fn later(target: SocketAddr, n: u32) -> SocketAddr {
    let ip = match target.ip() {
        IpAddr::V4(a) => Ipv4Addr::from(u32::from(a).wrapping_add(n)).into(),
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a).wrapping_add(n.into())).into(),
    };
    SocketAddr::new(ip, target.port())
}

fn take(tally: &mut Tally, bytes: Option<&[u8]>) {
    if let Some(n) = bytes.and_then(number) {
        tally.answer(n);
    }
}

fn ticker(rate: u32) -> tokio::time::Interval {
    let mut t = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    t.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    t
}

/// A TCP stream of numbered frames on one connection to an echo server; `stop` is as for [`udp`].
pub async fn tcp(target: SocketAddr, plan: Plan, stop: impl Future<Output = ()>) -> std::io::Result<Report> {
    let mut connection = TcpStream::connect(target).await?;
    connection.set_nodelay(true)?;
    connection.write_all(&[crate::serve::ECHO]).await?;
    connection.read_exact(&mut [0u8; 1]).await?;
    let (mut reader, mut writer) = connection.into_split();
    let mut tally = Tally::new(plan.packets);
    let mut tick = ticker(plan.rate);
    let mut held = Vec::with_capacity(4096);
    let mut end = None;
    let mut stop = pin!(stop);
    let mut wanted = plan.packets;
    while tally.report.received < wanted {
        let sending = tally.report.sent < wanted;
        if !sending && end.is_none() {
            end = Some(tokio::time::Instant::now() + plan.linger);
        }
        tokio::select! {
            _ = tick.tick(), if sending => {
                if writer.write_all(&frame(tally.report.sent)).await.is_err() { tally.report.cut = 1; break; }
                tally.report.sent += 1;
            }
            r = reader.read_buf(&mut held) => match r {
                Ok(0) | Err(_) => { tally.report.cut = 1; break; }
                Ok(_) => drain_frames(&mut tally, &mut held),
            },
            () = &mut stop, if sending => wanted = tally.report.sent,
            () = deadline(end) => break,
        }
    }
    Ok(tally.finish())
}

async fn deadline(end: Option<tokio::time::Instant>) {
    match end {
        Some(e) => tokio::time::sleep_until(e).await,
        None => std::future::pending().await,
    }
}

fn drain_frames(tally: &mut Tally, held: &mut Vec<u8>) {
    let whole = held.len() / FRAME * FRAME;
    for f in held.get(..whole).unwrap_or_default().chunks_exact(FRAME) {
        take(tally, Some(f));
    }
    held.drain(..whole);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lossy_echo(socket: UdpSocket, drop_every: u64) {
        let mut b = [0u8; 64];
        while let Ok((n, peer)) = socket.recv_from(&mut b).await {
            if number(&b[..n]).is_some_and(|i| i % drop_every != 0) {
                socket.send_to(&b[..n], peer).await.expect("send");
            }
        }
    }

    #[tokio::test]
    async fn lost_datagrams_are_counted_exactly() {
        let s = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let at = s.local_addr().expect("address");
        let server = tokio::task::spawn(lossy_echo(s, 10));
        let plan = Plan { packets: 200, rate: 5000, linger: Duration::from_millis(300) };
        let r = udp(at, 1, plan, std::future::pending()).await.expect("stream");
        assert_eq!((r.sent, r.received, r.lost, r.duplicated), (200, 180, 20, 0));
        server.abort();
    }

    #[tokio::test]
    async fn stream_that_is_stopped_has_lost_nothing() {
        let free = std::net::TcpListener::bind("[::]:0").expect("bind").local_addr().expect("bound").port();
        let server = tokio::task::spawn(async move { crate::serve::serve("echo".into(), &[free], &[free]).await });
        let at: SocketAddr = ([127, 0, 0, 1], free).into();
        while TcpStream::connect(at).await.is_err() {
            tokio::task::yield_now().await;
        }
        let plan = Plan { packets: 1_000_000, rate: 1000, linger: Duration::from_secs(2) };
        let soon = || tokio::time::sleep(Duration::from_millis(200));
        for r in [udp(at, 1, plan, soon()).await.expect("udp"), tcp(at, plan, soon()).await.expect("tcp")] {
            assert!(r.sent > 0 && r.sent < 10_000, "{r:?}");
            assert_eq!((r.received, r.lost, r.cut), (r.sent, 0, 0));
        }
        server.abort();
    }

    #[tokio::test]
    async fn connection_that_ends_early_is_reported_as_cut() {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let at = l.local_addr().expect("address");
        let server = tokio::task::spawn(async move {
            let (mut c, _) = l.accept().await.expect("accept");
            let mut b = [0u8; 1];
            c.read_exact(&mut b).await.expect("first byte");
            c.write_all(&b).await.expect("echo");
            c.read_exact(&mut [0u8; 64]).await.expect("four frames");
        });
        let plan = Plan { packets: 1000, rate: 2000, linger: Duration::from_millis(300) };
        let r = tcp(at, plan, std::future::pending()).await.expect("stream");
        assert_eq!((r.cut, r.received), (1, 0));
        assert!(r.lost > 0);
        server.await.expect("server");
    }
}

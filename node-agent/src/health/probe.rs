//! One probe of one lane: an echo request, or `GET /hello`.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};

use super::{Lane, PORT, Protocol, lane::Outcome};

/// An answer that takes longer is none.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Probes a lane. Takes no longer than [`TIMEOUT`].
pub async fn probe(lane: Lane) -> Outcome {
    let begun = Instant::now();
    let answered = async {
        match lane.protocol {
            Protocol::Icmp => echo(lane.address).await,
            Protocol::Http => hello(lane.address).await,
        }
    };
    match tokio::time::timeout(TIMEOUT, answered).await {
        Ok(Ok(())) => Ok(begun.elapsed()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// Type of the request, type of the answer: RFC 792, RFC 4443.
const fn echo_types(to: IpAddr) -> (u8, u8) {
    if to.is_ipv4() { (8, 0) } else { (128, 129) }
}

/// Asks for an echo. The socket is raw, since unprivileged ones depend on a setting of the node
/// (`net.ipv4.ping_group_range`), and connected, so that it hears only that one node.
async fn echo(to: IpAddr) -> io::Result<()> {
    let (domain, protocol) =
        if to.is_ipv4() { (Domain::IPV4, IpProtocol::ICMPV4) } else { (Domain::IPV6, IpProtocol::ICMPV6) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    // datagrams are all that it is used for
    let socket = UdpSocket::from_std(socket.into())?;
    let request = request(to, nonce());
    socket.send(&request).await?;
    let mut buffer = [0; 128];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer.get(..length).is_some_and(|got| is_answer(to, &request, got)) {
            return Ok(());
        }
    }
}

/// No other probe of any process on this node has it.
fn nonce() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    SEED.hash_one(COUNT.fetch_add(1, Ordering::Relaxed))
}

fn request(to: IpAddr, nonce: u64) -> [u8; 16] {
    let mut request = [0; 16];
    let nonce = nonce.to_be_bytes();
    for (place, byte) in request.iter_mut().skip(4).zip(nonce.iter().chain([b'a', b'x', b'n', b'h'].iter())) {
        *place = *byte;
    }
    let [kind, ..] = &mut request;
    *kind = echo_types(to).0;
    // of ICMPv6 the kernel does it, which alone knows the source (RFC 3542, 3.1)
    if to.is_ipv4() {
        let [high, low] = checksum(&request).to_be_bytes();
        let [_, _, a, b, ..] = &mut request;
        (*a, *b) = (high, low);
    }
    request
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|w| match w {
        [a, b] => u32::from(u16::from_be_bytes([*a, *b])),
        [a] => u32::from(*a) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

/// Whether it answers the request: the same identifier, number and payload. Raw IPv4 sockets hand up the header, too.
fn is_answer(to: IpAddr, request: &[u8], got: &[u8]) -> bool {
    let header = if to.is_ipv4() { got.first().map_or(0, |b| usize::from(b & 15) * 4) } else { 0 };
    let Some(message) = got.get(header..) else { return false };
    message.first() == Some(&echo_types(to).1) && message.get(4..).is_some() && message.get(4..) == request.get(4..)
}

async fn hello(to: IpAddr) -> io::Result<()> {
    let at = SocketAddr::new(to, PORT);
    let stream = TcpStream::connect(at).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/hello").header(header::HOST, at.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // who answers closes at once: then the answer is there, or why there is none
        _ = connection => answer.await,
    };
    let answer = answer.map_err(io::Error::other)?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        status => Err(io::Error::other(format!("port {PORT} is served by something else: HTTP {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_echo_requests_and_only_their_own_answers_count() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let sent = request(v4, 0x0102_0304_0506_0708);
        assert_eq!((sent[0], sent[1]), (8, 0));
        assert_eq!(checksum(&sent), 0, "a message with its checksum sums up to nothing");
        assert_eq!(sent[4..12], [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut header = [0u8; 24];
        header[0] = 0x46;
        let answer = |kind: u8, from: &[u8]| [&header[..], &[kind, 0, 9, 9], &from[4..]].concat();
        assert!(is_answer(v4, &sent, &answer(0, &sent)), "behind a header with options");
        assert!(!is_answer(v4, &sent, &answer(8, &sent)), "the request itself, which the own node hears, too");
        assert!(!is_answer(v4, &sent, &answer(0, &request(v4, 7))), "somebody else's");
        let v6: IpAddr = "fd00::1".parse().unwrap();
        let sent = request(v6, 7);
        assert_eq!(sent[..4], [128, 0, 0, 0]);
        assert!(is_answer(v6, &sent, &[&[129, 0, 1, 2], &sent[4..]].concat()));
        for short in 0..20 {
            assert!(!is_answer(v4, &sent, &vec![0x45; short]));
        }
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce(), nonce());
    }
}

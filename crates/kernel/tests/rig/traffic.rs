//! Traffic between namespaces.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::Namespace;

/// A deadline for what should happen at once.
pub const SHORT: Duration = Duration::from_millis(400);

/// One exchange over TCP. None: no connection in time.
pub fn tcp(from: &Namespace, to: IpAddr, port: u16) -> Option<Vec<u8>> {
    from.run(|| {
        let mut s = TcpStream::connect_timeout(&SocketAddr::new(to, port), SHORT).ok()?;
        s.set_read_timeout(Some(SHORT)).unwrap();
        s.write_all(b"ping").ok()?;
        let mut b = [0; 4];
        s.read_exact(&mut b).ok()?;
        Some(b.to_vec())
    })
}

/// Answers TCP connections of a pod until it is dropped with the process.
pub fn serve_tcp(ns: &Namespace, port: u16) {
    let (ready, wait) = std::sync::mpsc::channel();
    ns.spawn(move || {
        let l = TcpListener::bind(("::", port)).unwrap();
        ready.send(()).unwrap();
        for s in l.incoming() {
            let Ok(mut s) = s else { return };
            std::thread::spawn(move || {
                let mut b = [0; 4];
                while s.read_exact(&mut b).is_ok() {
                    if s.write_all(&b).is_err() {
                        return;
                    }
                }
            });
        }
    });
    wait.recv().unwrap();
}

/// Room for what comes while nobody reads: a busy machine lets a thread wait for longer than the usual 200 KiB last.
fn roomy(socket: &UdpSocket) {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20)).unwrap();
}

pub fn serve_udp(ns: &Namespace, port: u16) {
    let (ready, wait) = std::sync::mpsc::channel();
    ns.spawn(move || {
        let s = UdpSocket::bind(("::", port)).unwrap();
        roomy(&s);
        ready.send(()).unwrap();
        let mut b = vec![0; 65536];
        while let Ok((n, from)) = s.recv_from(&mut b) {
            let _ = s.send_to(&b[..n], from);
        }
    });
    wait.recv().unwrap();
}

pub fn udp(from: &Namespace, to: IpAddr, port: u16, size: usize) -> Option<usize> {
    from.run(|| {
        let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        s.set_read_timeout(Some(SHORT)).unwrap();
        s.connect(SocketAddr::new(to, port)).ok()?;
        s.send(&vec![7; size]).ok()?;
        let mut b = vec![0; 65536];
        s.recv(&mut b).ok()
    })
}

pub fn ping(from: &Namespace, to: IpAddr) -> bool {
    let out = std::process::Command::new("ip")
        .args(["netns", "exec", &from.name, "ping", "-c1", "-W1", &to.to_string()])
        .output()
        .unwrap();
    out.status.success()
}

/// Sends numbered datagrams at a steady pace and counts those that are echoed.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<(u64, u64)>,
}

/// Pause between numbered datagrams.
const PACE: Duration = Duration::from_micros(200);
/// So long is waited for an echo after the last datagram was sent.
const STRAGGLERS: Duration = Duration::from_secs(2);

impl Stream {
    /// Starts; the other end must echo UDP.
    pub fn start(from: &Namespace, to: IpAddr, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = from.spawn(move || {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.connect(SocketAddr::new(to, port)).unwrap();
            roomy(&s);
            let receiver = s.try_clone().unwrap();
            receiver.set_read_timeout(Some(STRAGGLERS)).unwrap();
            let all = Arc::new(AtomicU64::new(u64::MAX));
            let awaited = all.clone();
            let echoes = std::thread::spawn(move || {
                let mut seen = std::collections::HashSet::new();
                let mut b = [0; 8];
                // a silence ends it only when nothing is sent any more
                while (seen.len() as u64) < awaited.load(Ordering::Relaxed) {
                    match receiver.recv(&mut b) {
                        Ok(8) => drop(seen.insert(u64::from_be_bytes(b))),
                        _ if awaited.load(Ordering::Relaxed) != u64::MAX => break,
                        _ => {}
                    }
                }
                seen.len() as u64
            });
            let mut sent = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                s.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
                std::thread::sleep(PACE);
            }
            all.store(sent, Ordering::Relaxed);
            (sent, echoes.join().unwrap())
        });
        Self { stop, sender }
    }

    /// Stops, waits for stragglers, and says how many were sent and echoed.
    pub fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().unwrap()
    }
}

const IPPROTO_SCTP: i32 = 132;

/// A stream socket of SCTP; std knows none. The kernel may lack the protocol.
#[allow(unsafe_code, reason = "std makes no sockets of other protocols")]
fn sctp_socket(family: i32) -> std::io::Result<TcpStream> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system call; the descriptor is new. `TcpStream` reads and writes any stream socket.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM, IPPROTO_SCTP);
        if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(TcpStream::from_raw_fd(fd)) }
    }
}

fn raw_address(to: SocketAddr) -> nix::sys::socket::SockaddrStorage {
    nix::sys::socket::SockaddrStorage::from(to)
}

/// Answers SCTP associations at an address.
pub fn serve_sctp(ns: &Namespace, at: SocketAddr) {
    use std::os::fd::{AsFd, AsRawFd, FromRawFd};
    let (ready, wait) = std::sync::mpsc::channel();
    ns.spawn(move || {
        let listener = sctp_socket(if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).expect("SCTP");
        nix::sys::socket::bind(listener.as_raw_fd(), &raw_address(at)).unwrap();
        nix::sys::socket::listen(&listener.as_fd(), nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
        ready.send(()).unwrap();
        while let Ok(fd) = nix::sys::socket::accept(listener.as_raw_fd()) {
            #[allow(unsafe_code, reason = "the descriptor is new")]
            // SAFETY: `accept` just made it.
            let mut s = unsafe { TcpStream::from_raw_fd(fd) };
            std::thread::spawn(move || {
                let mut b = [0; 4];
                while s.read_exact(&mut b).is_ok() && s.write_all(&b).is_ok() {}
            });
        }
    });
    wait.recv().unwrap();
}

/// One exchange over SCTP.
pub fn sctp(from: &Namespace, to: SocketAddr, limit: Duration) -> bool {
    use std::os::fd::AsRawFd;
    from.run(|| {
        let mut s = sctp_socket(if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).expect("SCTP");
        s.set_write_timeout(Some(limit)).unwrap();
        s.set_read_timeout(Some(limit)).unwrap();
        if nix::sys::socket::connect(s.as_raw_fd(), &raw_address(to)).is_err() {
            return false;
        }
        let mut b = [0; 4];
        s.write_all(b"ping").is_ok() && s.read_exact(&mut b).is_ok() && b == *b"ping"
    })
}

//! Traffic between namespaces.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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

pub fn serve_udp(ns: &Namespace, port: u16) {
    let (ready, wait) = std::sync::mpsc::channel();
    ns.spawn(move || {
        let s = UdpSocket::bind(("::", port)).unwrap();
        ready.send(()).unwrap();
        let mut b = [0; 65536];
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

impl Stream {
    /// Starts; the other end must echo UDP.
    pub fn start(from: &Namespace, to: IpAddr, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = from.spawn(move || {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.connect(SocketAddr::new(to, port)).unwrap();
            let receiver = s.try_clone().unwrap();
            receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let echoes = std::thread::spawn(move || {
                let mut seen = std::collections::HashSet::new();
                let mut b = [0; 8];
                while let Ok(8) = receiver.recv(&mut b) {
                    seen.insert(u64::from_be_bytes(b));
                }
                seen.len() as u64
            });
            let mut sent = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                s.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
                std::thread::sleep(PACE);
            }
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

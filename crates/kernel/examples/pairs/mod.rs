//! Round trips and connections between two namespaces, measured for several setups in turn.
#![allow(dead_code, unreachable_pub, reason = "each bench uses its own part")]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::mpsc::{self, Receiver, channel},
    time::{Duration, Instant},
};

use axoneme_kernel::datapath::{Direction, PolicyDefault, PolicyTable};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::rig::{Namespace, rule};

pub const PORT: u16 = 7000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One byte there and back on an open connection.
    Rr,
    /// Connect, one byte there and back, reset.
    Crr,
}

pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// A client and a server in namespaces; the client runs on demand.
pub struct Setup {
    orders: mpsc::Sender<(Kind, IpAddr, Duration)>,
    results: Receiver<f64>,
    addresses: [IpAddr; 2],
}

impl Setup {
    pub fn new(client: &Namespace, server: &Namespace, addresses: [IpAddr; 2]) -> Self {
        let (ready, wait) = channel();
        server.spawn(move || {
            pin(0);
            let l = TcpListener::bind(("::", PORT)).unwrap();
            ready.send(()).unwrap();
            for s in l.incoming() {
                let Ok(mut s) = s else { continue };
                let _ = s.set_nodelay(true);
                let mut b = [0; 1];
                while s.read_exact(&mut b).is_ok() && s.write_all(&b).is_ok() {}
            }
        });
        wait.recv().unwrap();
        let (orders, inbox) = channel::<(Kind, IpAddr, Duration)>();
        let (outbox, results) = channel();
        client.spawn(move || {
            pin(0);
            for (kind, to, time) in inbox {
                outbox.send(measure(kind, to, time)).unwrap();
            }
        });
        Self { orders, results, addresses }
    }

    /// p50 in microseconds.
    pub fn run(&self, kind: Kind, family: usize, time: Duration) -> f64 {
        self.orders.send((kind, self.addresses[family], time)).unwrap();
        self.results.recv().unwrap()
    }
}

#[allow(unsafe_code, reason = "SO_LINGER has no safe wrapper in std")]
fn reset_on_close(s: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap();
    // SAFETY: the struct outlives the call.
    let r =
        unsafe { libc::setsockopt(s.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size) };
    assert_eq!(r, 0);
}

fn measure(kind: Kind, to: IpAddr, time: Duration) -> f64 {
    let address = SocketAddr::new(to, PORT);
    let open = || {
        let s = TcpStream::connect(address).unwrap();
        s.set_nodelay(true).unwrap();
        s
    };
    let mut samples = Vec::with_capacity(100_000);
    let start = Instant::now();
    let mut kept = (kind == Kind::Rr).then(open);
    let mut b = [1; 1];
    while start.elapsed() < time {
        let t = Instant::now();
        if let Some(s) = &mut kept {
            s.write_all(&b).unwrap();
            s.read_exact(&mut b).unwrap();
        } else {
            let mut s = open();
            reset_on_close(&s);
            s.write_all(&b).unwrap();
            s.read_exact(&mut b).unwrap();
        }
        samples.push(t.elapsed().as_secs_f64() * 1e6);
    }
    median(&mut samples)
}

pub fn median(x: &mut [f64]) -> f64 {
    quantile(x, 0.5)
}

pub fn quantile(x: &mut [f64], q: f64) -> f64 {
    x.sort_by(f64::total_cmp);
    #[allow(clippy::cast_sign_loss, reason = "a quantile's place")]
    let place = ((x.len() - 1) as f64 * q).round() as usize;
    x[place]
}

pub struct Line<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub family: usize,
    pub floor_name: &'a str,
    pub peer_name: &'a str,
}

/// Runs ours, floor and peer in turn and prints the line.
pub fn race(line: &Line<'_>, ours: &[Setup], floor: &[Setup], peer: &[Setup], rounds: usize, time: Duration) {
    if let Some(name) = word("--alone") {
        let (setups, figure) = match name.split_once(':') {
            Some(("floor", figure)) => (floor, figure),
            Some(("peer", figure)) => (peer, figure),
            _ => (ours, name.as_str()),
        };
        let runs = if figure == line.name { rounds } else { 0 };
        let mut all: Vec<_> = (0..runs).map(|r| setups[r % setups.len()].run(line.kind, line.family, time)).collect();
        if runs > 0 {
            eprintln!("{name}: {:.2} us", median(&mut all));
        }
        return;
    }
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    let (mut to_floor, mut to_peer) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // The order turns, so that a drift of the machine's speed hits all alike.
        let mut got = [0.0; 3];
        for step in 0..3 {
            let which = (round + step) % 3;
            let setups = [ours, floor, peer][which];
            got[which] = setups[(round / 3) % setups.len()].run(line.kind, line.family, time);
            all[which].push(got[which]);
        }
        to_floor.push(got[1] / got[0]);
        to_peer.push(got[2] / got[0]);
    }
    let [mut o, mut f, mut p] = all;
    println!(
        "{{\"name\":\"{}\",\"unit\":\"us\",\"ours\":{:.2},\"floor\":{:.2},\"floor_name\":\"{}\",\"peer\":{:.2},\
         \"peer_name\":\"{}\",\"ratio_to_floor\":{:.3},\"ratio_to_peer\":{:.3},\"spread\":[{:.3},{:.3}]}}",
        line.name,
        median(&mut o),
        median(&mut f),
        line.floor_name,
        median(&mut p),
        line.peer_name,
        median(&mut to_floor),
        median(&mut to_peer),
        quantile(&mut to_floor, 0.25),
        quantile(&mut to_floor, 0.75),
    );
}

/// The word behind an option.
pub fn word(option: &str) -> Option<String> {
    std::env::args().skip_while(|w| w != option).nth(1)
}

/// A frame of the pod 10.1.0.1 to 10.1.0.2.
pub fn tcp_packet(port: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut p = vec![0xee; 6];
    p.extend([0x0a, 0, 0, 0, 1, 1, 8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    p.extend(port.to_be_bytes());
    p.extend(to.to_be_bytes());
    p.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    p
}

/// A table of some size that lets the bench through by a rule, everything else not.
pub fn table(direction: Direction, peer: u32) -> PolicyTable {
    let deny = PolicyDefault { allow: false, audit: false, rule: 1 };
    let mut entries: Vec<_> = (0..200).map(|n| rule(direction, 50_000 + n, 6, 80, true, 2)).collect();
    entries.push(rule(direction, peer, 6, PORT, true, 3));
    let other = PolicyDefault { allow: true, audit: false, rule: 0 };
    let (ingress_default, egress_default) = if direction == Direction::Ingress { (deny, other) } else { (other, deny) };
    PolicyTable { ingress_default, egress_default, entries }
}

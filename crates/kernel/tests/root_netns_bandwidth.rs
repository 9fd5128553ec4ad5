//! Limits of pods' traffic: how much passes, that others do not feel it, and that it stays.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axoneme_kernel::datapath::{Datapath, Limit, ServiceEntry};
use rig::{
    Namespace, Node, Pod,
    cluster::{Cluster, Mode},
    traffic::{Stream, ping, serve_tcp, serve_udp, tcp},
    wait_for,
};

/// Bytes a second: 20 Mbit/s.
const RATE: u64 = 2_500_000;
/// What goes at once before a limit holds, and what waits in the queue, is over after so long.
const SKIP: Duration = Duration::from_millis(400);
const WINDOW: Duration = Duration::from_millis(1200);
const DATAGRAM: usize = 1400;

static PORT: AtomicU16 = AtomicU16::new(20_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Tcp,
    Udp,
}

/// Counts what comes within the window, which begins a while after the first byte.
fn count(mut receive: impl FnMut() -> Option<usize>) -> f64 {
    let mut bytes = 0;
    let mut begin = None;
    while let Some(n) = receive() {
        let since = begin.get_or_insert_with(Instant::now).elapsed();
        if since >= SKIP + WINDOW {
            break;
        }
        bytes += if since >= SKIP { n } else { 0 };
    }
    bytes as f64 / WINDOW.as_secs_f64()
}

/// Payload bytes a second that reach one namespace from another which sends as much as it can.
fn rate(over: Over, from: &Namespace, at: &Namespace, to: IpAddr) -> f64 {
    let to = SocketAddr::new(to, PORT.fetch_add(1, Ordering::Relaxed));
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, wait) = mpsc::channel();
    let receiver = at.spawn(move || match over {
        Over::Tcp => {
            let listener = TcpListener::bind(to).unwrap();
            ready.send(()).unwrap();
            let (mut s, _) = listener.accept().unwrap();
            s.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let mut b = vec![0; 1 << 16];
            count(|| s.read(&mut b).ok().filter(|n| *n > 0))
        }
        Over::Udp => {
            let s = UdpSocket::bind(to).unwrap();
            s.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            ready.send(()).unwrap();
            let mut b = vec![0; 1 << 16];
            count(|| s.recv(&mut b).ok())
        }
    });
    wait.recv().unwrap();
    let stopped = stop.clone();
    let sender = from.spawn(move || match over {
        Over::Tcp => {
            let mut s = TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap();
            s.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
            while !stopped.load(Ordering::Relaxed) && s.write_all(&[7; 1 << 14]).is_ok() {}
        }
        Over::Udp => {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.connect(to).unwrap();
            // twenty times the limit, so that it is enough on a machine that is busy; less than a queue holds at once
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..60 {
                    let _ = s.send(&[7; DATAGRAM]);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let rate = receiver.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    rate
}

fn mac(node: &Node, pod: &Pod) -> [u8; 6] {
    [0x0a, 0, 0, 0, node.number, pod.v4.octets()[3]]
}

/// Bytes a second to the pod and from it; 0: no limit.
fn limit(node: &Node, pod: &Pod, ingress: u64, egress: u64) {
    let limit = Limit { mac: mac(node, pod), ingress, egress };
    node.ns.run(|| node.datapath.set_limit(pod.ifindex, Some(&limit))).unwrap();
    assert!(limits(node).contains(&(pod.ifindex, limit)), "{:?}", limits(node));
}

fn unlimit(node: &Node, pod: &Pod) {
    node.ns.run(|| node.datapath.set_limit(pod.ifindex, None)).unwrap();
}

fn limits(node: &Node) -> Vec<(u32, Limit)> {
    node.ns.run(|| node.datapath.limits()).unwrap()
}

/// Measurements of which one has to say what is expected: a busy machine lets threads wait, and what has piled up meanwhile
/// comes at once.
const TRIES: usize = 5;

/// The limit counts headers, the measured rate does not: 95 % and 97 % are the most of TCP and UDP.
fn is_limited(what: &str, rate: u64, mut measure: impl FnMut() -> f64) {
    let holds = |share: &f64| (0.7..1.1).contains(share);
    let mut shares: Vec<f64> = Vec::new();
    while shares.len() < TRIES && !shares.last().is_some_and(holds) {
        shares.push(measure() / rate as f64);
    }
    let percent: Vec<String> = shares.iter().map(|s| format!("{:.0} %", s * 100.0)).collect();
    println!("{what}: {} of {:.0} Mbit/s", percent.join(", "), rate as f64 * 8e-6);
    assert!(shares.last().is_some_and(holds), "{what}: {shares:?} of {rate} bytes a second");
}

/// More than a limit ever let pass.
fn is_free(what: &str, mut measure: impl FnMut() -> f64) -> f64 {
    let rates = std::iter::repeat_with(&mut measure).take(TRIES);
    let enough = rates.into_iter().find(|rate| *rate > 20.0 * RATE as f64);
    enough.unwrap_or_else(|| panic!("{what}: as if there was a limit"))
}

fn both_ways(what: &str, protocols: &[Over], (node_a, a): (&Node, &Pod), (node_b, b): (&Node, &Pod)) {
    for direction in ["egress", "ingress"] {
        let (node, pod) = if direction == "egress" { (node_a, a) } else { (node_b, b) };
        let (ingress, egress) = if direction == "egress" { (0, RATE) } else { (RATE, 0) };
        limit(node, pod, ingress, egress);
        for over in protocols {
            for to in b.addresses() {
                let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
                let what = format!("{what}, {direction}, {over:?} over {family}");
                is_limited(&what, RATE, || rate(*over, &a.ns, &b.ns, to));
            }
        }
        let drops = node.ns.run(|| node.datapath.limit_drops()).unwrap();
        let [to, from] = drops.iter().find(|d| d.0 == pod.ifindex).expect("its queue is counted").1;
        if protocols.contains(&Over::Udp) {
            assert_eq!(
                (to > 0, from > 0),
                (ingress > 0, egress > 0),
                "what is too much is counted where it is dropped"
            );
        }
        unlimit(node, pod);
        assert!(limits(node).is_empty());
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_pod_sends_and_gets_what_its_limits_let_pass_on_one_node() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    both_ways("same node", &[Over::Tcp, Over::Udp], (&node, &a), (&node, &b));
    // what the node itself sends counts, too
    limit(&node, &b, RATE, 0);
    is_limited("from the node", RATE, || rate(Over::Tcp, &node.ns, &b.ns, b.v4.into()));
    let links = || node.ns.run(|| std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().count());
    let before = links();
    limit(&node, &b, RATE, RATE);
    assert_eq!(links(), before + 2, "what it sends is held back between two links");
    unlimit(&node, &b);
    assert_eq!(links(), before, "and nothing is left of them");
    is_free("lifted", || rate(Over::Tcp, &a.ns, &b.ns, b.v4.into()));
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_pod_sends_and_gets_what_its_limits_let_pass_between_nodes() {
    for (mode, protocols) in [(Mode::Vxlan, &[Over::Tcp, Over::Udp][..]), (Mode::Native, &[Over::Tcp])] {
        let c = Cluster::new(mode, None);
        let [a, b] = &c.pods;
        both_ways(&format!("{mode:?}"), protocols, (&c.nodes[0], a), (&c.nodes[1], b));
    }
}

/// A connection that goes on, and how much of it has arrived.
struct Flow {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Flow {
    fn start(from: &Namespace, at: &Namespace, to: IpAddr) -> Self {
        let to = SocketAddr::new(to, PORT.fetch_add(1, Ordering::Relaxed));
        let (arrived, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (ready, wait) = mpsc::channel();
        let (counted, stopped) = (arrived.clone(), stop.clone());
        let receiver = at.spawn(move || {
            let listener = TcpListener::bind(to).unwrap();
            ready.send(()).unwrap();
            let (mut s, _) = listener.accept().unwrap();
            let mut b = vec![0; 1 << 16];
            while let Some(n) = s.read(&mut b).ok().filter(|n| *n > 0) {
                counted.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        wait.recv().unwrap();
        let sender = from.spawn(move || {
            let mut s = TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                s.write_all(&[7; 1 << 14]).expect("the connection goes on");
            }
        });
        Self { arrived, stop, threads: [receiver, sender] }
    }

    /// Bytes a second, after what was under way has come through.
    fn rate(&self) -> f64 {
        std::thread::sleep(SKIP);
        let (begin, before) = (Instant::now(), self.arrived.load(Ordering::Relaxed));
        std::thread::sleep(WINDOW);
        (self.arrived.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64()
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let [receiver, sender] = self.threads;
        sender.join().unwrap();
        receiver.join().unwrap();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn limits_change_under_traffic_and_nobody_else_feels_it() {
    let mut node = Node::alone();
    let (a, b, c, d) = (node.pod(1), node.pod(2), node.pod(3), node.pod(4));
    serve_udp(&d.ns, 7);
    let flow = Flow::start(&a.ns, &b.ns, b.v4.into());
    let free = is_free("no limit", || flow.rate());
    limit(&node, &a, 0, RATE);
    is_limited("20 Mbit/s from the sender", RATE, || flow.rate());
    let neighbour = is_free("a neighbour", || rate(Over::Tcp, &c.ns, &d.ns, d.v4.into()));
    println!("without a limit {:.0} Mbit/s, a neighbour beside it {:.0}", free * 8e-6, neighbour * 8e-6);
    // from here on nothing saturates the machine, which loses packets of its own accord then
    let neighbours = [Stream::start(&c.ns, d.v4.into(), 7), Stream::start(&c.ns, d.v6.into(), 7)];
    limit(&node, &a, 0, RATE / 4);
    is_limited("5 Mbit/s from the sender", RATE / 4, || flow.rate());
    // the other end has a limit of its own
    limit(&node, &b, RATE / 2, 0);
    limit(&node, &a, 0, 2 * RATE);
    is_limited("10 Mbit/s to the receiver", RATE / 2, || flow.rate());
    // the process dies and another takes over
    let before = limits(&node);
    node.restart();
    assert_eq!(limits(&node), before, "adopted as they are");
    is_limited("the same after a restart", RATE / 2, || flow.rate());
    unlimit(&node, &b);
    is_limited("40 Mbit/s from the sender", 2 * RATE, || flow.rate());
    for stream in neighbours {
        let (sent, echoed) = stream.finish();
        println!("neighbour: {sent} sent, {} lost", sent - echoed);
        assert!(sent > 1000);
        assert_eq!(sent, echoed, "others lost packets");
    }
    unlimit(&node, &a);
    is_free("lifted", || flow.rate());
    flow.finish();
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn what_is_translated_answered_or_found_by_ping_passes_queues_as_it_is() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 8080);
    limit(&node, &a, RATE, RATE);
    limit(&node, &b, RATE, RATE);
    for (vip, backend) in [(IpAddr::from([10, 96, 0, 1]), b.v4.into()), ("fd96::1".parse().unwrap(), b.v6.into())] {
        let backends = vec![(backend, 8080)];
        let service = ServiceEntry { address: vip, protocol: 6, port: 80, backends, affinity_seconds: 0 };
        node.datapath.upsert_service(&service).unwrap();
        for _ in 0..3 {
            assert_eq!(tcp(&a.ns, vip, 80).as_deref(), Some(&b"ping"[..]), "{vip}");
            assert_eq!(tcp(&a.ns, backend, 8080).as_deref(), Some(&b"ping"[..]), "{backend}");
            assert_eq!(tcp(&node.ns, backend, 8080).as_deref(), Some(&b"ping"[..]), "the node to {backend}");
        }
        assert!(ping(&a.ns, backend) && ping(&node.ns, backend));
    }
    assert!(node.drops().is_empty(), "{:?}", node.drops());
    // its queues go with the pod's link
    node.ns.ip(&format!("link del {}", a.host_link));
    node.ns.run(|| node.datapath.detach(a.ifindex)).unwrap();
    let left = limits(&node);
    assert!(left.len() == 1 && left[0].0 == b.ifindex, "{left:?}");
    let queues = || node.ns.run(|| nix::net::if_::if_nametoindex(format!("axnq{}", a.ifindex).as_str()).is_ok());
    wait_for("the queue of a pod that is gone goes", Duration::from_secs(2), || !queues());
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn what_a_dead_process_left_half_made_is_finished() {
    let mut node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    limit(&node, &a, RATE, RATE);
    let whole = limits(&node);
    let broken: [&dyn Fn(); 2] = [&|| node.ns.ip(&format!("link del axnq{}", a.ifindex)), &|| {
        rig::sh(&format!("tc -n {} qdisc del dev {} root", node.ns.name, a.host_link));
    }];
    for break_it in broken {
        break_it();
        assert_ne!(limits(&node), whole, "what is missing is seen");
        limit(&node, &a, RATE, RATE);
        assert_eq!(limits(&node), whole);
        is_limited("mended", RATE, || rate(Over::Tcp, &a.ns, &b.ns, b.v6.into()));
    }
    // nobody is left who knows the pod
    node.ns.ip(&format!("link del {}", a.host_link));
    node.restart();
    assert_eq!(limits(&node).len(), 1, "its limit is found");
    unlimit(&node, &a);
    assert!(limits(&node).is_empty());
}

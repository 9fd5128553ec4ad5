//! What a pod's own egress policy denies fails at once, where the settings say so, and silently where they do not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use axoneme_abi::{Direction as Side, DropReason, tables::ANSWERS_PER_TICK};
use axoneme_kernel::datapath::{Datapath, Direction, PolicyDefault, PolicyTable, ServiceEntry};
use rig::{
    Namespace, Node, Options, Pod, allow_all,
    cluster::{Cluster, Mode},
    deny_egress, deny_ingress, rule,
    traffic::{SHORT, Stream, serve_tcp, serve_udp, tcp, udp},
};

/// An answer comes within microseconds; a connection without one is given up after minutes. Between them, with room for a
/// busy machine.
const LIMIT: Duration = Duration::from_secs(10);

fn node(answering: bool) -> Node {
    let ns = Namespace::new("node");
    ns.ip("addr add 10.200.0.1/32 dev lo");
    ns.ip("addr add fd20::1/128 dev lo nodad");
    Node::with(ns, 1, &Options { services: true, answer_denied: answering, ..Options::default() })
}

/// What connecting ends with, and after how long.
fn connect(from: &Namespace, to: IpAddr, port: u16, limit: Duration) -> (io::Result<()>, Duration) {
    from.run(|| {
        let begin = Instant::now();
        let outcome = TcpStream::connect_timeout(&SocketAddr::new(to, port), limit);
        (outcome.map(drop), begin.elapsed())
    })
}

/// What a connected socket hears after a datagram.
fn datagram(from: &Namespace, to: IpAddr, port: u16, size: usize, limit: Duration) -> io::Result<usize> {
    from.run(|| {
        let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        s.set_read_timeout(Some(limit))?;
        s.connect(SocketAddr::new(to, port))?;
        s.send(&vec![7; size])?;
        s.recv(&mut [0; 8])
    })
}

/// What the kernel makes of the answer: `EHOSTUNREACH` of ICMP type 3 code 13, `EACCES` of ICMPv6 type 1 code 1.
fn prohibited(family: IpAddr) -> i32 {
    if family.is_ipv4() { libc::EHOSTUNREACH } else { libc::EACCES }
}

fn fails_at_once(from: &Namespace, to: IpAddr) {
    let (outcome, _) = connect(from, to, 80, LIMIT);
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(prohibited(to)), "TCP to {to}");
    let heard = datagram(from, to, 53, 100, LIMIT).unwrap_err();
    assert_eq!(heard.raw_os_error(), Some(prohibited(to)), "UDP to {to}");
}

fn is_silent(from: &Namespace, to: IpAddr) {
    let (outcome, took) = connect(from, to, 80, SHORT);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut, "TCP to {to}");
    assert!(took >= SHORT);
    let heard = datagram(from, to, 53, 100, SHORT).unwrap_err();
    assert_eq!(heard.kind(), ErrorKind::WouldBlock, "UDP to {to}");
}

fn ping(from: &Pod, to: IpAddr) -> String {
    let arguments = ["netns", "exec", &from.ns.name, "ping", "-c1", "-W5", &to.to_string()].map(ToString::to_string);
    let out = std::process::Command::new("ip").args(arguments).output().unwrap();
    assert!(!out.status.success(), "{to}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn what_a_pods_own_policy_denies_fails_at_once() {
    let node = node(true);
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    serve_udp(&b.ns, 53);
    // Closed inwards as well: an answer needs no leave of a policy.
    node.datapath
        .put_table(a.slot, &PolicyTable { ingress_default: deny_ingress().ingress_default, ..deny_egress() })
        .unwrap();
    let outside: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    for to in b.addresses().into_iter().chain(outside) {
        fails_at_once(&a.ns, to);
        let words = ping(&a, to);
        let expected = if to.is_ipv4() { "Packet filtered" } else { "Administratively prohibited" };
        assert!(words.contains(expected), "ping {to}: {words}");
    }
    // A datagram of several fragments, by its first one.
    let heard = datagram(&a.ns, b.v4.into(), 53, 9000, LIMIT).unwrap_err();
    assert_eq!(heard.raw_os_error(), Some(prohibited(b.v4.into())));
    let drops = node.drops();
    assert!(drops.len() >= 12, "each is told: {drops:?}");
    for d in &drops {
        assert_eq!((d.reason, d.direction, d.rule), (DropReason::PolicyDenied as u8, Side::Egress as u8, 78), "{d:?}");
        assert!(d.protocol != 17 || d.length >= 142, "the packet is told, not the answer: {d:?}");
    }
    // What is allowed next is there at once, and the pod that was asked is not concerned.
    node.datapath.put_table(a.slot, &allow_all()).unwrap();
    serve_tcp(&a.ns, 80);
    for (to, back) in b.addresses().into_iter().zip(a.addresses()) {
        assert!(tcp(&a.ns, to, 80).is_some() && udp(&a.ns, to, 53, 100).is_some(), "{to}");
        assert!(tcp(&b.ns, back, 80).is_some(), "{back}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn nothing_is_answered_without_the_setting_in_audit_and_by_the_receivers_policy() {
    let silent = node(false);
    let (a, b) = (silent.pod(1), silent.pod(2));
    silent.datapath.put_table(a.slot, &deny_egress()).unwrap();
    b.addresses().into_iter().for_each(|to| is_silent(&a.ns, to));
    let node = node(true);
    let (a, b) = (node.pod(1), node.pod(2));
    serve_tcp(&b.ns, 80);
    serve_udp(&b.ns, 53);
    node.datapath.put_table(b.slot, &deny_ingress()).unwrap();
    b.addresses().into_iter().for_each(|to| is_silent(&a.ns, to));
    assert!(node.drops().iter().all(|d| d.direction == Side::Ingress as u8));
    node.datapath.put_table(b.slot, &allow_all()).unwrap();
    let audit = PolicyDefault { allow: true, audit: true, rule: 78 };
    node.datapath.put_table(a.slot, &PolicyTable { egress_default: audit, ..allow_all() }).unwrap();
    for to in b.addresses() {
        assert!(tcp(&a.ns, to, 80).is_some() && udp(&a.ns, to, 53, 100).is_some(), "{to}: it passes, as if allowed");
    }
    assert_eq!(node.drops().len(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_denied_backend_fails_at_once_at_its_services_address() {
    let node = node(true);
    let (a, b) = (node.pod(1), node.pod(2));
    let mut table = allow_all();
    for protocol in [6, 17] {
        table.entries.push(rule(Direction::Egress, b.identity, protocol, 8080, false, 4));
    }
    node.datapath.put_table(a.slot, &table).unwrap();
    let vips: [IpAddr; 2] = ["10.96.0.10".parse().unwrap(), "fd96::10".parse().unwrap()];
    for (vip, of_b) in vips.into_iter().zip(b.addresses()) {
        for (protocol, port) in [(6, 80), (17, 53)] {
            let backends = vec![(of_b, 8080)];
            let entry = ServiceEntry { address: vip, protocol, port, backends, affinity_seconds: 0 };
            node.datapath.upsert_service(&entry).unwrap();
        }
        fails_at_once(&a.ns, vip);
    }
    let drops = node.drops();
    assert!(drops.iter().all(|d| (d.reason, d.rule) == (DropReason::PolicyDeny as u8, 4)), "{drops:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn pods_elsewhere_are_denied_at_once_with_either_routing_by_links_and_by_filters() {
    for (mode, filters) in [(Mode::Vxlan, false), (Mode::Native, true)] {
        let c = Cluster::answering(mode, filters);
        let [here, there] = &c.pods;
        serve_tcp(&there.ns, 80);
        assert!(there.addresses().into_iter().all(|to| tcp(&here.ns, to, 80).is_some()), "{mode:?}");
        c.nodes[0].datapath.put_table(here.slot, &deny_egress()).unwrap();
        there.addresses().into_iter().for_each(|to| fails_at_once(&here.ns, to));
        // Decided where the receiver is: not answered, as on one node.
        c.nodes[0].datapath.put_table(here.slot, &allow_all()).unwrap();
        c.nodes[1].datapath.put_table(there.slot, &deny_ingress()).unwrap();
        there.addresses().into_iter().for_each(|to| is_silent(&here.ns, to));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn the_setting_changes_without_losing_a_packet() {
    let mut node = node(false);
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    serve_udp(&b.ns, 53);
    node.datapath.put_table(a.slot, &deny_egress()).unwrap();
    let streams = b.addresses().map(|to| Stream::start(&c.ns, to, 53));
    for answering in [true, false, true] {
        node.config.answer_denied = answering;
        node.restart();
        for to in b.addresses() {
            if answering { fails_at_once(&a.ns, to) } else { is_silent(&a.ns, to) }
        }
    }
    for stream in streams {
        let (sent, echoed) = stream.finish();
        assert!(sent > 100 && sent == echoed, "{echoed} of {sent}");
    }
}

/// Errors "destination unreachable" that this thread's namespace got.
fn unreachables(v6: bool) -> u64 {
    if v6 {
        let table = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let line = table.lines().find(|l| l.starts_with("Icmp6InDestUnreachs")).unwrap();
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = table.lines().filter(|l| l.starts_with("Icmp:")).map(|l| l.split_whitespace());
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "InDestUnreachs").unwrap().1.parse().unwrap()
}

/// As many as may come while a flood takes this long, on so many CPUs.
fn most(took: Duration) -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    // The shortest tick, of 1000 Hz, is 256 ms; the one that is over and the one that begins count in full.
    let ticks = took.as_millis() as u64 / 256 + 2;
    cpus * ticks * u64::from(ANSWERS_PER_TICK)
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_flood_gets_few_answers_and_leaves_those_of_others() {
    const FLOOD: u64 = 100_000;
    let node = node(true);
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    for pod in [&a, &b, &c] {
        node.datapath.put_table(pod.slot, &deny_egress()).unwrap();
    }
    // Two who flood: both families of one pod have one account.
    for (pod, to) in [(&a, "192.0.2.7:9"), (&c, "[2001:db8::7]:9")] {
        let to: SocketAddr = to.parse().unwrap();
        let (answers, took) = pod.ns.run(|| {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.connect(to).unwrap();
            let (before, begin) = (unreachables(to.is_ipv6()), Instant::now());
            for _ in 0..FLOOD {
                // An answer is the error of a later call.
                let _ = s.send(b"x");
            }
            // What is still on its way was sent already; it can only add to what is counted in a moment.
            (unreachables(to.is_ipv6()) - before, begin.elapsed())
        });
        assert!(answers >= u64::from(ANSWERS_PER_TICK), "{to}: {answers} of {FLOOD}");
        assert!(answers <= most(took), "{to}: {answers} of {FLOOD} in {took:?}");
        assert!(most(took) < FLOOD / 2, "the flood took so long ({took:?}) that this says nothing");
        fails_at_once(&b.ns, to.ip());
    }
}

//! A pod whose root sends whatever it likes: other pods, the node and its tables are as they were.
//!
//! `AXONEME_HOSTILE_FRAMES=N` for another number of random frames, `AXONEME_SEED=N` for others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]
#![allow(clippy::disallowed_methods, reason = "how many frames to send is asked for by the environment")]

mod rig;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Instant,
};

use axoneme_abi::DropReason;
use axoneme_kernel::datapath::{Datapath, EndpointEntry};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rig::{
    Namespace, Node, Pod,
    frames::{Tap, checksum, fragments, udp},
    node_v4, node_v6,
    traffic::{Stream, serve_udp, tcp},
};

/// Random frames of a run without settings; ten million take minutes.
const FRAMES: u64 = 1_000_000;
/// What the hostile pod claims to be, besides the pods and the node.
const NOBODY: Mac = [2, 0xba, 0xdb, 0xad, 0, 1];
/// Of the hostile pod, of the one that listens, and of the one that echoes.
const MINE: Mac = [0x0a, 0, 0, 0, 1, 1];
const VICTIM: Mac = [0x0a, 0, 0, 0, 1, 2];
const OTHER: Mac = [0x0a, 0, 0, 0, 1, 3];
const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];
const HOST: Mac = axoneme_abi::constants::HOST_MAC;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

type Mac = [u8; 6];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")))
}

/// What the kernel knows of neighbours, routes and addresses. Counters and ages are not in it.
fn knowledge(spaces: &[&Namespace]) -> Vec<String> {
    let mut all = Vec::new();
    for ns in spaces {
        for what in ["neigh show", "-6 neigh show", "route show table all", "-6 route show table all", "addr show"] {
            let out = Command::new("ip").args(["-n", &ns.name]).args(what.split(' ')).output().unwrap();
            assert!(out.status.success(), "{what}");
            let text = String::from_utf8(out.stdout).unwrap();
            // an entry that was asked for and got no answer says nothing of anybody
            let known = text.lines().filter(|l| !l.contains("FAILED") && !l.contains("INCOMPLETE"));
            let lifetime = |l: &str| l.split(" expires ").next().unwrap().trim_end().to_owned();
            let mut lines: Vec<String> = known.map(|l| format!("{}: {}", ns.name, lifetime(l))).collect();
            lines.sort();
            all.extend(lines);
        }
    }
    all
}

fn ethernet(to: Mac, from: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ether_type.to_be_bytes(), payload].concat()
}

/// Whoever has `ip` is at `mac`, says a request (1) or a reply (2) about `target`. RFC 826.
fn arp(to: Mac, operation: u8, (mac, ip): (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    ethernet(to, mac, 0x0806, &[&head[..], &mac, &ip.octets(), &to, &target.octets()].concat())
}

/// A message of neighbour discovery. RFC 4861.
fn discovery(to: Mac, from: Mac, source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut icmp = body.to_vec();
    let length = u8::try_from(icmp.len()).unwrap();
    let sum = checksum(&[&source.octets(), &destination.octets(), &[0, 0, 0, length, 0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum);
    let head = [0x60, 0, 0, 0, 0, length, 58, 255];
    ethernet(to, from, 0x86dd, &[&head[..], &source.octets(), &destination.octets(), &icmp].concat())
}

/// An advertisement that `target` is at `mac`, overriding what was known.
fn advertisement(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    [&[136, 0, 0, 0, 0xe0, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat()
}

/// A router that wants to be everybody's, with a prefix for addresses.
fn router(mac: Mac) -> Vec<u8> {
    let head = [134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], &prefix, &Ipv6Addr::new(0xfdba, 0xd, 0, 0, 0, 0, 0, 0).octets(), &[1, 1], &mac].concat()
}

/// Packets to `destination` are better sent by way of `target`.
fn redirect(target: Ipv6Addr, destination: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let head = [137, 0, 0, 0, 0, 0, 0, 0];
    [&head[..], &target.octets(), &destination.octets(), &[2, 1], &mac].concat()
}

/// Everything that one pod can claim about addresses that are not its own; all of it has to be dropped.
fn claims(own: &Pod, mine: Mac, others: &[(Ipv4Addr, Ipv6Addr)], to: &[Mac]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for to in to {
        for (v4, v6) in others {
            for mac in [mine, NOBODY] {
                frames.push(arp(*to, 2, (mac, *v4), own.v4));
                frames.push(arp(*to, 1, (mac, *v4), *v4));
                frames.push(arp(*to, 1, (mac, *v4), GATEWAY));
                // from the address that it claims, and from its own
                frames.push(discovery(*to, mac, *v6, own.v6, &advertisement(*v6, mac)));
                frames.push(discovery(*to, mac, own.v6, GATEWAY6, &advertisement(*v6, mac)));
                frames.push(discovery(*to, mac, own.v6, *v6, &router(mac)));
                frames.push(discovery(*to, mac, GATEWAY6, *v6, &router(mac)));
                frames.push(discovery(*to, mac, GATEWAY6, *v6, &redirect(own.v6, *v6, mac)));
                frames.push(discovery(*to, mac, own.v6, *v6, &redirect(own.v6, *v6, mac)));
            }
        }
    }
    frames
}

/// Two streams between the victims, one of each family.
fn streams(a: &Pod, b: &Pod) -> [Stream; 2] {
    b.addresses().map(|to| Stream::start(&a.ns, to, 53))
}

fn nothing_is_lost(streams: [Stream; 2], during: &str) {
    let counts = streams.map(Stream::finish);
    println!("{during}: sent and echoed {counts:?}");
    for (sent, echoed) in counts {
        assert!(sent > 100 && sent == echoed, "{during}: {echoed} of {sent} came back");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_pod_poisons_nobody() {
    let node = Node::alone();
    let (hostile, a, b) = (node.pod(1), node.pod(2), node.pod(3));
    serve_udp(&b.ns, 53);
    assert!(tcp(&hostile.ns, node_v4(1).into(), 1).is_none(), "whatever it may make the node learn it has learnt");
    let spaces = [&node.ns, &a.ns, &b.ns];
    let before = knowledge(&spaces);
    let streams = streams(&a, &b);
    let tap = Tap::open(&hostile.ns, "eth0");
    let heard = Tap::open(&a.ns, "eth0");
    let others = [(a.v4, a.v6), (b.v4, b.v6), (node_v4(1), node_v6(1)), (GATEWAY, GATEWAY6)];
    let to = [HOST, BROADCAST, ALL_NODES, VICTIM];
    let claims = claims(&hostile, MINE, &others, &to);
    for round in 0..20 {
        for frame in &claims {
            tap.send(frame);
        }
        assert_eq!(knowledge(&spaces), before, "round {round}");
    }
    nothing_is_lost(streams, "under false claims");
    let from_hostile = |f: &Vec<u8>| f[6..12] == MINE || f[6..12] == NOBODY;
    let reached: Vec<_> = heard.all().into_iter().filter(from_hostile).collect();
    assert_eq!(reached, Vec::<Vec<u8>>::new(), "another pod heard of it");
    // Every one of them was dropped for what it is. Which link-local addresses a pod has nobody knows but its own link,
    // and on that nobody else listens: four claims of the gateway's pass, by the pod's address or by the gateway's.
    let metrics = node.datapath.metrics().unwrap();
    let of = |reason: DropReason| metrics.drops.iter().filter(|d| d.0 == reason).map(|d| d.2.packets).sum::<u64>();
    let dropped = of(DropReason::InvalidSourceIp) + of(DropReason::InvalidSourceMac) + of(DropReason::ForbiddenIcmp6);
    let link_local = 4 * to.len() as u64;
    assert!(dropped >= 20 * (claims.len() as u64 - link_local), "{dropped} of {}: {metrics:?}", 20 * claims.len());
}

/// Addresses and numbers that mean something here, so that random frames come past the first check now and then.
struct Words {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    macs: Vec<Mac>,
}

impl Words {
    fn v4(&self, rng: &mut StdRng) -> Ipv4Addr {
        if rng.random_bool(0.1) { rng.random::<u32>().into() } else { *self.v4.choose(rng).unwrap() }
    }

    fn v6(&self, rng: &mut StdRng) -> Ipv6Addr {
        if rng.random_bool(0.1) { rng.random::<u128>().into() } else { *self.v6.choose(rng).unwrap() }
    }

    fn ends(&self, rng: &mut StdRng, own: &Pod) -> (IpAddr, IpAddr) {
        let honest = rng.random_bool(0.6);
        if rng.random() {
            let source = if honest { own.v4 } else { self.v4(rng) };
            (source.into(), self.v4(rng).into())
        } else {
            let source = if honest { own.v6 } else { self.v6(rng) };
            (source.into(), self.v6(rng).into())
        }
    }

    /// A frame with sense in it, before it is scribbled on.
    fn frame(&self, rng: &mut StdRng, own: &Pod) -> Vec<u8> {
        let (to, from) = (*self.macs.choose(rng).unwrap(), *self.macs.choose(rng).unwrap());
        let length = *[0usize, 1, 8, 40, 200, 1400].choose(rng).unwrap();
        let payload: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        let macs: [u8; 12] = [to, from].concat().try_into().unwrap();
        let ends = self.ends(rng, own);
        let ports = (rng.random(), *[53, 80, 8472, 6081, 0].choose(rng).unwrap());
        match rng.random_range(0..10) {
            0 => ethernet(to, from, rng.random(), &payload),
            1 => arp(to, rng.random_range(0..4), (from, self.v4(rng)), self.v4(rng)),
            2 => {
                let body = [vec![rng.random_range(127..140), 0, 0, 0], payload[..length.min(200)].to_vec()].concat();
                discovery(to, from, self.v6(rng), self.v6(rng), &body)
            }
            3 => fragments(&macs, ends, rng.random_range(0..8), ports, &payload, 64).choose(rng).unwrap().clone(),
            _ => {
                let (protocol, transport) = match rng.random_range(0..5) {
                    0 => (17, udp(ends.0, ends.1, ports, &payload)),
                    1 => (if ends.0.is_ipv4() { 1 } else { 58 }, [vec![rng.random(), rng.random()], payload].concat()),
                    2 => (rng.random(), payload),
                    // extension headers of IPv6, or protocols that nobody speaks
                    3 => (*[0, 43, 44, 50, 51, 60, 4, 41, 47, 132].choose(rng).unwrap(), payload),
                    _ => {
                        let mut tcp = vec![0; 20];
                        tcp[..2].copy_from_slice(&ports.0.to_be_bytes());
                        tcp[2..4].copy_from_slice(&ports.1.to_be_bytes());
                        (tcp[12], tcp[13]) = (rng.random(), rng.random());
                        (6, [tcp, payload].concat())
                    }
                };
                ip(&macs, ends, protocol, &transport, rng)
            }
        }
    }
}

fn ip(macs: &[u8; 12], ends: (IpAddr, IpAddr), protocol: u8, payload: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let length = payload.len() as u16;
    match ends {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let words = if rng.random_bool(0.1) { rng.random_range(5..16u8) } else { 5 };
            let mut head = vec![0; usize::from(words) * 4];
            head[0] = 0x40 | words;
            let whole = length + u16::from(words) * 4;
            head[2..4].copy_from_slice(&whole.to_be_bytes());
            (head[8], head[9]) = (*[0, 1, 2, 64].choose(rng).unwrap(), protocol);
            head[12..16].copy_from_slice(&source.octets());
            head[16..20].copy_from_slice(&destination.octets());
            head[20..].fill_with(|| rng.random());
            let sum = checksum(&[&head]);
            head[10..12].copy_from_slice(&sum);
            [&macs[..], &[8, 0], &head, payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [a, b] = length.to_be_bytes();
            let hops = *[0, 1, 2, 64, 255].choose(rng).unwrap();
            let head = [0x60, 0, 0, 0, a, b, protocol, hops];
            [&macs[..], &[0x86, 0xdd], &head, &source.octets(), &destination.octets(), payload].concat()
        }
        _ => unreachable!("ends are of one family"),
    }
}

/// Changes up to three bytes, or cuts the frame.
fn scribble(frame: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..frame.len().min(80));
        frame[at] = rng.random();
    }
    if rng.random_bool(0.1) {
        frame.truncate(rng.random_range(14..=frame.len()));
    }
}

/// Lines that the kernel wrote about itself since `from`: warnings of its own code.
fn complaints(from: usize) -> (usize, Vec<String>) {
    let out = Command::new("dmesg").output().unwrap();
    assert!(out.status.success(), "the kernel's log can be read");
    let text = String::from_utf8_lossy(&out.stdout);
    let bad = ["WARNING:", "BUG:", "Oops", "general protection", "neighbour table overflow", "table overflow"];
    let lines: Vec<&str> = text.lines().collect();
    // a machine that stands still is not the kernel's fault, nor the pod's
    let said = lines.iter().skip(from).filter(|l| bad.iter().any(|b| l.contains(b)) && !l.contains("lockup"));
    (lines.len(), said.map(|l| (*l).to_owned()).collect())
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn random_frames_of_a_pod_harm_nobody() {
    let (count, seed) = (setting("AXONEME_HOSTILE_FRAMES", FRAMES), setting("AXONEME_SEED", 1));
    let node = Node::alone();
    let (hostile, a, b) = (node.pod(1), node.pod(2), node.pod(3));
    // the node knows the pods' link addresses, as agents tell it
    for (pod, mac) in [(&hostile, MINE), (&a, VICTIM), (&b, OTHER)] {
        for address in pod.addresses() {
            node.datapath.upsert_endpoint(address, EndpointEntry { mac, ..pod.entry() }).unwrap();
        }
    }
    serve_udp(&b.ns, 53);
    let spaces = [&node.ns, &a.ns, &b.ns];
    let before = knowledge(&spaces);
    let (lines, _) = complaints(0);
    let words = Words {
        v4: vec![
            hostile.v4,
            a.v4,
            b.v4,
            node_v4(1),
            GATEWAY,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::LOCALHOST,
            [224, 0, 0, 1].into(),
        ],
        v6: vec![hostile.v6, a.v6, b.v6, node_v6(1), GATEWAY6, Ipv6Addr::LOCALHOST, "ff02::1".parse().unwrap()],
        macs: vec![HOST, HOST, MINE, MINE, VICTIM, BROADCAST, ALL_NODES, NOBODY],
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut frames: Vec<Vec<u8>> = (0..8192).map(|_| words.frame(&mut rng, &hostile)).collect();
    let tap = Tap::open(&hostile.ns, "eth0");
    // Fragments that come before their first one wait, and fill their sender's socket: a pod can have as many as it likes.
    tap.grow();
    let heard = Tap::open(&a.ns, "eth0");
    let streams = streams(&a, &b);
    let begun = Instant::now();
    let (mut sent, mut taken, mut reached) = (0u64, 0u64, 0u64);
    while sent < count {
        for frame in &mut frames {
            if sent.is_multiple_of(4) {
                scribble(frame, &mut rng);
            }
            taken += u64::from(tap.offer(frame));
            sent += 1;
        }
        // what comes through says the truth about its sender
        for frame in heard.all() {
            reached += 1;
            if let Some(source) = source_of(&frame) {
                assert!(!a.addresses().contains(&source), "the pod hears itself: {frame:02x?}");
                assert!(!b.addresses().contains(&source) || is_echo(&frame), "not the other's: {frame:02x?}");
            }
        }
        let fresh = frames.len() / 4;
        for frame in frames.iter_mut().take(fresh) {
            *frame = words.frame(&mut rng, &hostile);
        }
        frames.rotate_left(fresh);
    }
    let took = begun.elapsed();
    println!(
        "{taken} of {sent} frames in {:.1} s, {:.0} a second",
        took.as_secs_f64(),
        sent as f64 / took.as_secs_f64()
    );
    assert!(taken > sent / 10 * 9, "the link takes frames");
    nothing_is_lost(streams, "under random frames");
    println!("{reached} frames came to the other pod");
    assert_eq!(knowledge(&spaces), before);
    let (_, said) = complaints(lines);
    assert_eq!(said, Vec::<String>::new());
    let metrics = node.datapath.metrics().unwrap();
    let dropped: u64 = metrics.drops.iter().map(|d| d.2.packets).sum();
    println!("dropped {dropped}, by {} reasons", metrics.drops.len());
    assert!(dropped > taken / 10, "random frames were mostly taken: {metrics:?}");
}

/// What the honest pod sends: datagrams from the port that echoes.
fn is_echo(frame: &[u8]) -> bool {
    let (protocol, port) = if frame[12..14] == [8, 0] { (23, 34..36) } else { (20, 54..56) };
    frame.get(protocol) == Some(&17) && frame.get(port) == Some(&[0, 53])
}

fn source_of(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [8, 0] => <[u8; 4]>::try_from(frame.get(26..30)?).ok().map(IpAddr::from),
        [0x86, 0xdd] => <[u8; 16]>::try_from(frame.get(22..38)?).ok().map(IpAddr::from),
        _ => None,
    }
}

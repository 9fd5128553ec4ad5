//! Fragments in every order, from link to link: each is judged by its datagram's ports, however they come.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::large_stack_arrays,
    clippy::too_many_lines,
    clippy::many_single_char_names,
    clippy::missing_errors_doc,
    reason = "a test fails by panicking, and reads best in one piece"
)]

mod rig;

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use axoneme_abi::DropReason;
use axoneme_kernel::datapath::{Datapath, Direction};
use rig::{
    Node, Pod, allow_all,
    cluster::{Cluster, Mode},
    deny_egress,
    frames::{Tap, fragment, fragments, macs, udp},
    rule, wait_for,
};

const OPEN: u16 = 53;
const CLOSED: u16 = 54;
const SOURCE: u16 = 4000;
/// For what arrives, which a busy machine may delay.
const ARRIVES: Duration = Duration::from_secs(3);
/// For what must not arrive: longer than a fragment waits.
const QUIET: Duration = Duration::from_millis(700);

/// A sender of frames and a receiver of datagrams.
struct Way<'a> {
    tap: Tap,
    macs: [u8; 12],
    ends: (IpAddr, IpAddr),
    receiver: &'a Pod,
    /// Sees what reaches the receiving pod at all.
    watch: Tap,
    id: u32,
}

impl<'a> Way<'a> {
    fn new(sender: &Pod, sender_node: u8, receiver: &'a Pod, v6: bool) -> Self {
        let number = sender.v4.octets()[3];
        let pick = |p: &Pod| p.addresses()[usize::from(v6)];
        Self {
            tap: Tap::open(&sender.ns, "eth0"),
            macs: macs(sender_node, number),
            ends: (pick(sender), pick(receiver)),
            receiver,
            watch: Tap::open(&receiver.ns, "eth0"),
            id: 0x1000,
        }
    }

    fn socket(&self, port: u16) -> UdpSocket {
        let to = self.ends.1;
        let s = self.receiver.ns.run(|| UdpSocket::bind((to, port)).unwrap());
        s.set_read_timeout(Some(ARRIVES)).unwrap();
        s
    }

    fn pieces(&mut self, port: u16, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        self.id += 1;
        fragments(&self.macs, self.ends, self.id, (SOURCE, port), payload, size)
    }

    fn send(&self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.tap.send(frame);
        }
    }

    /// Whether any packet between the two ends reached the receiving pod since the last time.
    fn reached(&self) -> bool {
        let (source, destination) = self.ends;
        self.watch.all().iter().any(|f| ends(f) == Some((source, destination)))
    }
}

fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match frame.get(12..14)? {
        [8, 0] => {
            let a = |at: usize| -> Option<IpAddr> { Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into()) };
            Some((a(26)?, a(30)?))
        }
        [0x86, 0xdd] => {
            let a = |at: usize| -> Option<IpAddr> { Some(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?.into()) };
            Some((a(22)?, a(38)?))
        }
        _ => None,
    }
}

fn payload(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8 ^ seed).collect()
}

fn receive(s: &UdpSocket) -> Option<Vec<u8>> {
    let mut b = vec![0; 70_000];
    s.recv(&mut b).ok().map(|n| b[..n].to_vec())
}

/// Brings the fragments of a datagram into an order.
type Shuffle = fn(&mut Vec<Vec<u8>>);

/// The same promises for a way and both families.
fn every_order(way: &mut Way<'_>, what: &str) {
    let open = way.socket(OPEN);
    let orders: [(&str, Shuffle); 5] = [
        ("in order", |_| ()),
        ("reversed", |f| f.reverse()),
        ("the first in the middle", |f| f.rotate_left(2)),
        ("the first last", |f| f.rotate_left(1)),
        ("each twice", |f| *f = f.iter().rev().flat_map(|x| [x.clone(), x.clone()]).collect()),
    ];
    for (name, shuffle) in orders {
        let data = payload(5000, 1);
        let mut frames = way.pieces(OPEN, &data, 1200);
        shuffle(&mut frames);
        way.send(&frames);
        assert_eq!(receive(&open).as_deref(), Some(&data[..]), "{what}: {name}");
    }
    // Of the smallest size that there is: the transport header just fits into the first.
    let data = payload(100, 2);
    let mut frames = way.pieces(OPEN, &data, 8);
    frames.reverse();
    way.send(&frames);
    assert_eq!(receive(&open).as_deref(), Some(&data[..]), "{what}: tiny");
    // Two datagrams into each other, both backwards.
    let (one, two) = (payload(4000, 3), payload(4000, 4));
    let (mut a, mut b) = (way.pieces(OPEN, &one, 800), way.pieces(OPEN, &two, 800));
    a.reverse();
    b.reverse();
    way.send(&a.into_iter().zip(b).flat_map(|(x, y)| [x, y]).collect::<Vec<_>>());
    let got = [receive(&open), receive(&open)];
    assert!(got.contains(&Some(one)) && got.contains(&Some(two)), "{what}: interleaved");
    // A large one: more fragments wait than the queue lets out at once.
    let data = payload(50_000, 5);
    let mut frames = way.pieces(OPEN, &data, 1200);
    frames.reverse();
    way.send(&frames);
    assert_eq!(receive(&open).as_deref(), Some(&data[..]), "{what}: large");
}

/// A port that policy closes: no byte of it reaches the pod, in whatever order.
fn denied(way: &mut Way<'_>, what: &str) {
    let (open, closed) = (way.socket(OPEN), way.socket(CLOSED));
    let _before = way.reached();
    for step in 0..3 {
        let mut frames = way.pieces(CLOSED, &payload(5000, 6), 1200);
        match step {
            0 => {}
            1 => frames.reverse(),
            _ => frames.rotate_left(2),
        }
        way.send(&frames);
    }
    std::thread::sleep(QUIET);
    assert!(!way.reached(), "{what}: a denied fragment reached the pod");
    assert!(closed.set_nonblocking(true).is_ok() && receive(&closed).is_none());
    // Later fragments without a first one, and a denied first one whose id an allowed datagram then takes.
    let mut lonely = way.pieces(OPEN, &payload(5000, 7), 1200);
    lonely.remove(0);
    way.send(&lonely);
    std::thread::sleep(QUIET);
    assert!(!way.reached(), "{what}: a fragment without its first one reached the pod");
    let data = payload(3000, 8);
    let refused = way.pieces(CLOSED, &data, 1200);
    way.id -= 1;
    let allowed = way.pieces(OPEN, &data, 1200);
    way.send(&[refused[0].clone(), allowed[2].clone(), allowed[1].clone()]);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!way.reached(), "{what}: judged by the wrong first fragment");
    way.send(&allowed);
    assert_eq!(receive(&open).as_deref(), Some(&data[..]), "{what}: an id used again");
}

/// Fragments over each other: what the open port gets is its own datagram or nothing, the closed port gets nothing.
fn overlapping(way: &mut Way<'_>, what: &str) {
    let (open, closed) = (way.socket(OPEN), way.socket(CLOSED));
    let (source, destination) = way.ends;
    let good = udp(source, destination, (SOURCE, OPEN), &payload(2000, 9));
    let evil = udp(source, destination, (SOURCE, CLOSED), &payload(2000, 10));
    way.id += 1;
    let piece =
        |data: &[u8], from: usize, to: usize, more| fragment(&way.macs, way.ends, way.id, from, more, &data[from..to]);
    // A first one for the open port, then the rest, then a first one for the closed port over it.
    way.send(&[piece(&good, 0, 1200, true), piece(&evil, 0, 800, true), piece(&good, 1200, good.len(), false)]);
    way.id += 1;
    let piece =
        |data: &[u8], from: usize, to: usize, more| fragment(&way.macs, way.ends, way.id, from, more, &data[from..to]);
    way.send(&[piece(&good, 1000, good.len(), false), piece(&evil, 800, 1200, true), piece(&good, 0, 1000, true)]);
    std::thread::sleep(QUIET);
    closed.set_nonblocking(true).unwrap();
    assert_eq!(receive(&closed), None, "{what}");
    open.set_nonblocking(true).unwrap();
    // Whole before the other came, or nothing: never a mixture.
    while let Some(got) = receive(&open) {
        assert!(got == payload(2000, 9), "{what}: a mixture of two datagrams");
    }
}

fn close(node: &Node, pod: &Pod) {
    let mut table = allow_all();
    table.entries.push(rule(Direction::Ingress, 0, 17, CLOSED, false, 3));
    node.datapath.put_table(pod.slot, &table).unwrap();
}

fn all(receiving: &Node, sender: (&Pod, u8), receiver: &Pod, what: &str) {
    close(receiving, receiver);
    for v6 in [false, true] {
        let what = format!("{what}, {}", if v6 { "IPv6" } else { "IPv4" });
        let mut way = Way::new(sender.0, sender.1, receiver, v6);
        every_order(&mut way, &what);
        denied(&mut way, &what);
        overlapping(&mut way, &what);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn fragments_in_any_order_are_judged_on_one_node() {
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    all(&node, (&a, 1), &b, "one node");
    let drops = node.drops();
    assert!(drops.iter().any(|d| d.reason == DropReason::PolicyDeny as u8 && d.rule == 3));
    let lost = drops.iter().filter(|d| d.reason == DropReason::FragmentNotFound as u8).count();
    assert!(lost >= 8, "four fragments of each family had no first one: {lost}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn fragments_in_any_order_are_judged_across_nodes() {
    for mode in [Mode::Native, Mode::Vxlan, Mode::Vxlan6] {
        let c = Cluster::new(mode, None);
        let [a, b] = &c.pods;
        all(&c.nodes[1], (a, 1), b, &format!("{mode:?}"));
    }
}

/// The underlay reorders: the sending node sees them in order, the receiving node does not.
#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn fragments_that_the_underlay_reorders_are_judged() {
    let c = Cluster::new(Mode::Native, None);
    let [a, b] = &c.pods;
    close(&c.nodes[1], b);
    let mac = |node: &Node| {
        let out = std::process::Command::new("ip")
            .args(["netns", "exec", &node.ns.name, "cat", "/sys/class/net/up0/address"])
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        text.trim().split(':').map(|h| u8::from_str_radix(h, 16).unwrap()).collect::<Vec<_>>()
    };
    let link: [u8; 12] = [mac(&c.nodes[1]), mac(&c.nodes[0])].concat().try_into().unwrap();
    for v6 in [false, true] {
        let mut way = Way::new(a, 1, b, v6);
        way.tap = Tap::open(&c.nodes[0].ns, "up0");
        way.macs = link;
        every_order(&mut way, "underlay");
        denied(&mut way, "underlay");
    }
}

/// Waiting is no way around the checks of a source: they come first.
#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn fragments_of_another_s_address_do_not_wait() {
    let node = Node::alone();
    let (a, b, c) = (node.pod(1), node.pod(2), node.pod(3));
    for v6 in [false, true] {
        let mut way = Way::new(&a, 1, &b, v6);
        way.ends.0 = c.addresses()[usize::from(v6)];
        let mut frames = way.pieces(OPEN, &payload(3000, 1), 1200);
        frames.reverse();
        way.send(&frames);
        std::thread::sleep(QUIET);
        assert!(!way.reached());
    }
    let drops = node.drops();
    assert_eq!(drops.iter().filter(|d| d.reason == DropReason::InvalidSourceIp as u8).count(), 6, "{drops:?}");
    assert_eq!(drops.len(), 6);
}

/// More than the room holds: each fragment that is too much is a drop with its reason, and the queue itself loses none.
#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn a_full_waiting_room_drops_by_name() {
    /// A packet that waits counts in its sender's buffer, which is full long before the room is.
    const SENDERS: u64 = 20;
    const EACH: u64 = 60;
    const SENT: u64 = SENDERS * EACH;
    let node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    let mut way = Way::new(&a, 1, &b, false);
    let frames = way.pieces(OPEN, &payload(3000, 1), 1200);
    let later = &frames[1];
    let length = u64::try_from(later.len()).unwrap();
    let taps: Vec<Tap> = (0..SENDERS).map(|_| Tap::open(&a.ns, "eth0")).collect();
    for tap in taps.iter().flat_map(|tap| std::iter::repeat_n(tap, EACH as usize)) {
        tap.send(later);
    }
    let full = node.drops().iter().filter(|d| d.reason == DropReason::WaitingRoomFull as u8).count() as u64;
    let held = u64::from(axoneme_abi::constants::ROOM_BYTES) / length;
    let left = SENT - full;
    // Some came out meanwhile, for others to go in, and in again.
    assert!(full > 0 && left >= held && left < held + 400, "{full} of {SENT} were refused, the room holds {held}");
    let out = std::process::Command::new("tc")
        .args(["-n", &node.ns.name, "-s", "qdisc", "show", "dev", "axn_wait0"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("dropped 0,"), "{text}");
}

/// Egress policy holds for what waited, too, and so it does after a restart.
#[test]
#[ignore = "needs root: run by cargo xtask test netns"]
fn the_waiting_room_outlives_a_restart_and_goes_with_uninstall() {
    let mut node = Node::alone();
    let (a, b) = (node.pod(1), node.pod(2));
    node.restart();
    for v6 in [false, true] {
        let mut way = Way::new(&a, 1, &b, v6);
        let open = way.socket(OPEN);
        let data = payload(3000, 1);
        let mut frames = way.pieces(OPEN, &data, 1200);
        frames.reverse();
        way.send(&frames);
        assert_eq!(receive(&open), Some(data));
        node.datapath.put_table(a.slot, &deny_egress()).unwrap();
        let _before = way.reached();
        let mut frames = way.pieces(OPEN, &payload(3000, 2), 1200);
        frames.reverse();
        way.send(&frames);
        std::thread::sleep(QUIET);
        assert!(!way.reached());
        node.datapath.put_table(a.slot, &allow_all()).unwrap();
    }
    let denied = node.drops().iter().filter(|d| d.rule == 78 && d.direction == 1).count();
    assert_eq!(denied, 6);
    let Node { datapath, ns, fs, .. } = node;
    let room = |ns: &rig::Namespace| ns.run(|| nix::net::if_::if_nametoindex("axn_wait0").is_ok());
    assert!(room(&ns));
    ns.run(|| datapath.uninstall()).unwrap();
    wait_for("no room", Duration::from_secs(1), || !room(&ns));
    drop(fs);
}

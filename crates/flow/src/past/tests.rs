use axoneme_model::{Direction, Identity, Protocol, rows::RuleId};

use super::*;
use crate::{DropReason, Event, Origin, Point, Traffic, Transport, Verdict};

/// What a node sees that is not idle: connections of 110 pods with a few thousand others, most with few of them; each
/// begins by a socket's packet or by the tunnel, and ends with counters. Nothing is told again.
struct Node {
    state: u64,
    time: u64,
    cookie: u64,
}

impl Node {
    fn new() -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, time: 1_795_269_600_000_000_000, cookie: 0x2_0000 }
    }

    fn random(&mut self, below: u64) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014)
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % below
    }

    /// One of so many, the small ones more often: uniform in the logarithm.
    fn skewed(&mut self, of: u64) -> u64 {
        let bits = self.random(u64::from(of.ilog2()) + 1);
        self.random((1 << bits).min(of)) | (1 << bits >> 1).min(of - 1)
    }

    fn record(&mut self, a_second: u64) -> Record {
        self.time += self.random(2_000_000_000 / a_second);
        let (pod, other) = (self.skewed(110), self.skewed(4000));
        let own = std::net::Ipv4Addr::from(0x0a01_0000 + pod as u32);
        let peer = std::net::Ipv4Addr::from(0x0a02_0000 + 256 * (other as u32 % 40) + other as u32 / 40);
        let (event, out) = (self.random(20), self.random(2) == 0);
        let (source, destination) = if out { (own, peer) } else { (peer, own) };
        let (near, far) = (Identity(300 + pod as u32 / 3), Identity(400 + other as u32 / 8));
        let service = (pod as usize + other as usize) % 12;
        let port = [80, 443, 8080, 5432, 6379, 9090, 9092, 53, 3000, 8443, 27017, 11211][service];
        let client = 32_768 + self.random(28_000) as u16;
        let (event, verdict) = match event {
            0 => (Event::Drop, Verdict::Dropped),
            1..=9 => (Event::Closed, Verdict::Forwarded),
            _ => (Event::New, Verdict::Forwarded),
        };
        self.cookie += self.random(6);
        let traffic = |n: &mut Self| {
            let packets = 4 + n.skewed(60);
            Traffic { packets, bytes: packets * 66 + n.skewed(20_000) }
        };
        let closed = event == Event::Closed;
        let flags = crate::TcpFlags(if closed { 17 } else { 2 });
        Record {
            time: Time(self.time),
            event,
            verdict,
            reason: if event == Event::Drop { DropReason::POLICY_DENIED } else { DropReason::UNKNOWN },
            direction: Some(if out { Direction::Egress } else { Direction::Ingress }),
            reply: (event != Event::Drop).then_some(false),
            point: if out { Point::FromEndpoint } else { Point::FromOverlay },
            onward: match (event, out) {
                (Event::New, true) => Point::ToOverlay,
                (Event::New, false) => Point::ToEndpoint,
                _ => Point::UnknownPoint,
            },
            ends: Some((source.into(), destination.into())),
            transport: match port {
                53 => Transport::new(Protocol::UDP, client, port, 0),
                _ => Transport::Tcp { source: client, destination: port, flags },
            },
            source_identity: if out { near } else { far },
            destination_identity: if out { far } else { near },
            rule: RuleId(1 + service as u32 + pod as u32 % 5),
            ifindex: if out { 10 + pod as u32 } else { 5 },
            length: if event == Event::Drop { 74 } else { 0 },
            origin: match event {
                Event::Closed => Origin::Unknown,
                _ if out => Origin::Socket { cookie: self.cookie, cgroup: 9000 + 37 * pod },
                _ => Origin::Tunnel { id: far.0 },
            },
            forward: if closed { traffic(self) } else { Traffic::default() },
            backward: if closed { traffic(self) } else { Traffic::default() },
        }
    }
}

/// A hub that was pushed so many records, packed as an agent's thread would.
fn filled(records: u64, ring: usize, room: usize) -> (Arc<Hub>, Archivist, Vec<Record>) {
    let (hub, feed) = Hub::new("n1", "", 1, ring);
    hub.remember(room);
    let (archivist, all) = fill(&hub, feed, records);
    (hub, archivist, all)
}

fn fill(hub: &Arc<Hub>, mut feed: crate::Feed, records: u64) -> (Archivist, Vec<Record>) {
    let (mut archivist, mut node, mut all) = (Archivist::new(hub), Node::new(), Vec::new());
    for n in 0..records {
        let record = node.record(1000);
        feed.push(&record);
        all.push(record);
        // before the ring has gone round
        if n % (hub.capacity() / 16) == 0 {
            while archivist.turn(hub) {}
        }
    }
    (archivist, all)
}

/// The agent's default of the ring, and what it gives the past beside it.
const RING: usize = 16_384;

#[test]
fn ten_minutes_at_a_thousand_flows_a_second_take_no_more_than_16_mib() {
    let flows = 600_000;
    let (hub, _, all) = filled(flows, RING, crate::PAST_BYTES);
    let first = all.first().unwrap().time;
    // the pages that are unpacked while somebody reads are part of it
    let oldest = hub.oldest();
    let kept = (oldest..flows).step_by(997).filter(|n| {
        let found = hub.read(|view| view.history.get(*n));
        assert_eq!(found, Found::Record(all[*n as usize]), "{n}");
        true
    });
    assert!(kept.count() > 500);
    let (packed, in_past) = hub.read(|view| view.history.packed());
    let bytes = RING * History::RECORD_BYTES + packed;
    println!("{} tenths of a byte a record in the past, {} KiB in all", packed as u64 * 10 / in_past, bytes >> 10);
    assert!(bytes <= 16 << 20, "{bytes} bytes");
    let since = all[oldest as usize].time;
    let seconds = (all.last().unwrap().time.0 - since.0) / 1_000_000_000;
    assert!(seconds >= 590, "{seconds} seconds are left of those since {first:?}: the oldest is {oldest}");
}

#[test]
fn a_reader_sees_the_past_and_the_ring_as_one() {
    let (hub, _, all) = filled(5000, 256, 1 << 20);
    assert_eq!((hub.oldest(), hub.seen(), hub.capacity()), (0, 5000, 256));
    assert_eq!(hub.held(), 5000);
    for (n, record) in all.iter().enumerate() {
        assert_eq!(hub.read(|v| v.history.get(n as u64)), Found::Record(*record), "{n}");
    }
    // in any order, also between pages
    for n in (0..5000).rev().step_by(71).chain([15, 16, 17, 0, 4999]) {
        assert_eq!(hub.read(|v| v.history.get(n)), Found::Record(all[n as usize]), "{n}");
    }
    assert_eq!(hub.read(|v| v.history.get(5000)), Found::NotYet);
}

#[test]
fn the_oldest_page_goes_first_and_the_room_is_kept() {
    let (hub, mut archivist, all) = filled(20_000, 1024, 40_000);
    let (bytes, _) = hub.read(|v| v.history.packed());
    assert!(bytes <= 40_000, "{bytes}");
    let oldest = hub.oldest();
    assert!(oldest > 0 && oldest < 20_000 - 1024, "{oldest}");
    assert_eq!(hub.read(|v| v.history.get(0)), Found::Gone { oldest });
    assert_eq!(hub.read(|v| v.history.get(oldest)), Found::Record(all[oldest as usize]));
    hub.remember(0);
    assert_eq!(hub.oldest(), 20_000 - 1024, "what the ring has stays");
    assert!(!archivist.turn(&hub));
}

#[test]
fn what_was_overwritten_before_it_was_packed_is_a_gap() {
    let (hub, mut feed) = Hub::new("n1", "", 1, 64);
    hub.remember(1 << 20);
    let (mut archivist, mut node) = (Archivist::new(&hub), Node::new());
    let mut push = |n: u64| (0..n).for_each(|_| feed.push(&node.record(1000)));
    push(64);
    while archivist.turn(&hub) {}
    push(1000);
    while archivist.turn(&hub) {}
    push(64);
    assert!(matches!(hub.read(|v| v.history.get(63)), Found::Record(_)));
    assert_eq!(hub.read(|v| v.history.get(64)), Found::Gone { oldest: 1000 });
    assert!((1000..1128).all(|n| matches!(hub.read(|v| v.history.get(n)), Found::Record(_))));
}

#[test]
fn who_asks_for_what_is_new_unpacks_nothing_that_is_old() {
    let (hub, _, all) = filled(5000, 256, 1 << 20);
    let since = all[3000].time;
    let at = hub.read(|v| v.history.skip_before(since, 0));
    assert!(at <= 3000 && at > 3000 - 64, "{at}: pages of 64");
    assert_eq!(hub.read(|v| v.history.skip_before(since, 3500)), 3500);
    assert_eq!(hub.read(|v| v.history.skip_before(Time(0), 7)), 7);
    assert_eq!(hub.read(|v| v.history.skip_before(Time(u64::MAX), 0)), 5000 - 5000 % 64);
}

#[test]
fn a_ring_of_another_size_keeps_its_past() {
    let (hub, mut feed) = Hub::new("n1", "", 1, 256);
    hub.remember(1 << 20);
    let (mut archivist, mut node, mut all) = (Archivist::new(&hub), Node::new(), Vec::new());
    for n in 0..3000 {
        if n == 2000 {
            hub.keep(64);
        }
        all.push(node.record(1000));
        feed.push(all.last().unwrap());
        while archivist.turn(&hub) {}
    }
    assert_eq!((hub.capacity(), hub.held()), (64, 3000));
    for n in 0..3000 {
        assert_eq!(hub.read(|v| v.history.get(n)), Found::Record(all[n as usize]), "{n}");
    }
}

#[test]
fn the_archivist_ends_with_its_hub() {
    let (hub, feed) = Hub::new("n1", "", 1, 64);
    let archivist = Archivist::new(&hub);
    drop((hub, feed));
    archivist.run();
}

//! Flows, counted by pair and by reason.
//!
//! *Guarantees*: memory is bounded by [`SLICES`] × [`PAIRS`], whatever flows say; what has no room is counted under
//! [`OTHERS`], so that sums stay right.

use std::collections::{BTreeMap, HashMap};

use axoneme_flow::{Content, Event, Flow, Response, Time};
use axoneme_model::Protocol;
use serde::Serialize;

use crate::{args::Busy, observe};

/// Parts of a window: it moves in steps of one.
const SLICES: u64 = 30;
/// Pairs, and as many kinds of drops, that a slice tells apart.
const PAIRS: usize = 4096;
/// Both ends of what a slice has no room for.
const OTHERS: &str = "(others)";

/// Who talks to whom, and at which port: a connection's ends but for the port that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(super) struct Pair {
    pub(super) source: String,
    pub(super) destination: String,
    /// `TCP 8080`, `ICMPv4`.
    pub(super) port: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Connections.
    pub(super) opened: u64,
    pub(super) closed: u64,
    /// Packets that were dropped.
    pub(super) dropped: u64,
    /// Packets and bytes of connections that were closed, both ways.
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        for (to, from) in [
            (&mut self.opened, other.opened),
            (&mut self.closed, other.closed),
            (&mut self.dropped, other.dropped),
            (&mut self.packets, other.packets),
            (&mut self.bytes, other.bytes),
        ] {
            *to = to.saturating_add(from);
        }
    }

    fn of(flow: &Flow) -> Self {
        let ways = [flow.extensions.forward, flow.extensions.backward];
        let sum =
            |f: fn(axoneme_flow::flow::Counters) -> u64| ways.into_iter().flatten().map(f).fold(0, u64::saturating_add);
        match flow.extensions.event {
            Event::New => Self { opened: 1, ..Self::default() },
            Event::Drop => Self { dropped: 1, ..Self::default() },
            // its connection is counted by another flow
            Event::Judged => Self::default(),
            Event::Closed => {
                Self { closed: 1, packets: sum(|c| c.packets), bytes: sum(|c| c.bytes), ..Self::default() }
            }
        }
    }
}

impl Busy {
    /// What is compared: the measure itself, then whatever else a pair did.
    pub(super) const fn key(self, c: &Counts) -> (u64, u64) {
        let all = c.opened.saturating_add(c.dropped);
        match self {
            Self::Connections => (all, c.bytes),
            Self::Bytes => (c.bytes, all),
            Self::Drops => (c.dropped, all),
        }
    }
}

impl Pair {
    /// As the connection's opener sees it: a reply counts for the connection that it is of.
    fn of(flow: &Flow) -> Self {
        let [mut source, mut destination] = observe::hosts(flow);
        let (mut from, mut to) = flow.ports().unzip();
        if flow.is_reply == Some(true) {
            std::mem::swap(&mut source, &mut destination);
            std::mem::swap(&mut from, &mut to);
        }
        let protocol = Protocol(flow.extensions.protocol);
        Self { source, destination, port: to.map_or_else(|| protocol.to_string(), |port| format!("{protocol} {port}")) }
    }

    fn others() -> Self {
        Self { source: OTHERS.into(), destination: OTHERS.into(), port: String::new() }
    }
}

/// What happened in some time.
#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    pub(super) flows: u64,
    pub(super) total: Counts,
    pub(super) pairs: HashMap<Pair, Counts>,
    /// By reason and policy: how many, and the last one's ends.
    pub(super) drops: HashMap<(String, String), (u64, Pair)>,
    /// Times of the oldest and the newest flow.
    pub(super) span: Option<(Time, Time)>,
}

impl Slice {
    fn add(&mut self, flow: &Flow) {
        let (pair, counts) = (Pair::of(flow), Counts::of(flow));
        self.flows += 1;
        self.total.add(counts);
        self.widen(flow.time, flow.time);
        if flow.extensions.event == Event::Drop {
            let policy = flow.decided_by().next().map(|(p, _)| p.to_string()).unwrap_or_default();
            self.drop((observe::kind(flow).to_owned(), policy), pair.clone());
        }
        self.pair(pair, counts);
    }

    fn pair(&mut self, pair: Pair, counts: Counts) {
        let room = self.pairs.len() < PAIRS || self.pairs.contains_key(&pair);
        self.pairs.entry(if room { pair } else { Pair::others() }).or_default().add(counts);
    }

    fn drop(&mut self, why: (String, String), last: Pair) {
        let room = self.drops.len() < PAIRS || self.drops.contains_key(&why);
        let why = if room { why } else { (OTHERS.into(), String::new()) };
        let known = self.drops.entry(why).or_insert_with(|| (0, last.clone()));
        *known = (known.0 + 1, last);
    }

    fn widen(&mut self, oldest: Time, newest: Time) {
        let (a, b) = self.span.unwrap_or((oldest, newest));
        self.span = Some((a.min(oldest), b.max(newest)));
    }

    fn merge(&mut self, other: &Self) {
        self.flows += other.flows;
        self.total.add(other.total);
        if let Some((oldest, newest)) = other.span {
            self.widen(oldest, newest);
        }
        // what the parts had room for, the sum has room for
        for (pair, counts) in &other.pairs {
            self.pairs.entry(pair.clone()).or_default().add(*counts);
        }
        for (why, (drops, last)) in &other.drops {
            let known = self.drops.entry(why.clone()).or_insert_with(|| (0, last.clone()));
            *known = (known.0 + drops, last.clone());
        }
    }
}

/// The flows of a window of time, or of all time.
#[derive(Debug)]
pub(super) struct Tally {
    /// Nanoseconds of a slice; none: there is one for all.
    step: Option<u64>,
    slices: BTreeMap<u64, Slice>,
    pub(super) lost: u64,
}

impl Tally {
    /// A window of so many seconds up to the newest flow; none: all that comes.
    pub(super) const fn new(window: Option<u64>) -> Self {
        let step = match window {
            Some(seconds) => Some(seconds.saturating_mul(1_000_000_000) / SLICES + 1),
            None => None,
        };
        Self { step, slices: BTreeMap::new(), lost: 0 }
    }

    pub(super) fn add(&mut self, response: &Response) {
        match &response.content {
            Content::Lost(lost) => self.lost = self.lost.saturating_add(lost.num_events_lost),
            Content::Flow(flow) => {
                let slice = self.step.map_or(0, |step| flow.time.0 / step);
                self.slices.entry(slice).or_default().add(flow);
                self.forget(slice);
            }
        }
    }

    /// Time has come to this: what is older than the window no longer counts.
    pub(super) fn advance(&mut self, now: Time) {
        if let Some(step) = self.step {
            self.forget(now.0 / step);
        }
    }

    /// The newest flow that counts.
    pub(super) fn newest(&self) -> Option<Time> {
        self.slices.values().filter_map(|s| s.span).map(|s| s.1).max()
    }

    fn forget(&mut self, newest: u64) {
        let newest = self.slices.last_key_value().map_or(newest, |(last, _)| newest.max(*last));
        self.slices = self.slices.split_off(&(newest + 1).saturating_sub(SLICES));
    }

    pub(super) fn sum(&self) -> Slice {
        let mut all = Slice::default();
        self.slices.values().for_each(|slice| all.merge(slice));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drop (or a connection's end) between two addresses.
    fn response(seconds: u64, event: &str, to: &str, port: u16, reply: bool) -> Response {
        let (mut source, mut destination) = ("10.0.0.1", to);
        let (mut from, mut at) = (40_000, port);
        if reply {
            (source, destination, from, at) = (destination, source, at, from);
        }
        let counters = serde_json::json!({"packets": "3", "bytes": "100"});
        let counters = (event == "CLOSED").then_some(counters);
        serde_json::from_value(serde_json::json!({
            "node_name": "n1", "time": Time(seconds * 1_000_000_000),
            "flow": {
                "time": Time(seconds * 1_000_000_000), "uuid": axoneme_flow::FlowId::default(), "verdict": "DROPPED",
                "IP": {"source": source, "destination": destination, "ipVersion": "IPv4"},
                "l4": {"TCP": {"source_port": from, "destination_port": at}}, "source": {}, "destination": {},
                "Type": "L3_L4", "node_name": "n1", "event_type": {"type": 1}, "is_reply": reply, "Summary": "TCP",
                "drop_reason_desc": "POLICY_DENIED",
                "extensions": {"@type": "t", "event": event, "protocol": 6, "forward": counters, "backward": counters},
            },
        }))
        .unwrap()
    }

    fn pair(to: &str) -> Pair {
        Pair { source: "10.0.0.1".into(), destination: to.into(), port: "TCP 80".into() }
    }

    #[test]
    fn a_reply_counts_for_the_connection_that_it_is_of() {
        let mut tally = Tally::new(None);
        tally.add(&response(1, "NEW", "10.0.0.2", 80, false));
        // what the other side's policy says of it
        tally.add(&response(1, "JUDGED", "10.0.0.2", 80, false));
        tally.add(&response(2, "DROP", "10.0.0.2", 80, true));
        tally.add(&response(3, "CLOSED", "10.0.0.2", 80, false));
        let all = tally.sum();
        let counts = Counts { opened: 1, closed: 1, dropped: 1, packets: 6, bytes: 200 };
        assert_eq!((all.flows, all.total), (4, counts));
        assert_eq!(all.pairs, HashMap::from([(pair("10.0.0.2"), counts)]));
        assert_eq!(all.drops.into_values().collect::<Vec<_>>(), [(1, pair("10.0.0.2"))]);
        assert_eq!(all.span, Some((Time(1_000_000_000), Time(3_000_000_000))));
    }

    #[test]
    fn a_window_forgets_what_is_older_also_when_nothing_comes() {
        let mut tally = Tally::new(Some(60));
        for second in 0..100 {
            tally.add(&response(1000 + second, "DROP", "10.0.0.2", 80, false));
        }
        let flows = tally.sum().flows;
        assert!((57..=61).contains(&flows), "{flows} flows of one a second");
        assert_eq!(tally.newest(), Some(Time(1_099_000_000_000)));
        // an older one that comes late is not counted, nor does it bring the others back
        tally.add(&response(900, "DROP", "10.0.0.2", 80, false));
        assert_eq!(tally.sum().flows, flows);
        tally.advance(Time(1_129_000_000_000));
        let left = tally.sum().flows;
        assert!((27..=31).contains(&left), "{left} flows after half a minute");
        tally.advance(Time(2_000_000_000_000));
        assert_eq!(tally.sum().flows, 0);
    }

    #[test]
    fn pairs_without_room_are_others_and_the_sum_stays_right() {
        let mut tally = Tally::new(None);
        let many = PAIRS as u64 + 500;
        for n in 0..many {
            let to = std::net::Ipv4Addr::from_bits(0x0b00_0000 | n as u32).to_string();
            tally.add(&response(1, "DROP", &to, 80, false));
        }
        let all = tally.sum();
        assert_eq!((all.flows, all.total.dropped, all.pairs.len()), (many, many, PAIRS + 1));
        assert_eq!(all.pairs.values().map(|c| c.dropped).sum::<u64>(), many);
        assert_eq!(all.pairs[&Pair::others()].dropped, 500);
    }
}

//! How many flows one core takes from event bytes to what clients are sent, and what is lost at a given rate.
//!
//! `cargo run --profile image -p axoneme-hubble --example flow_scale [rounds]` prints one JSON object a line. Events are
//! connections between pods of one node and of another, each with its own ports, as the kernel's programs write them;
//! the ring itself is not part of this (see the datapath's figures).
#![allow(clippy::expect_used, reason = "a measurement that cannot go on says why and ends")]
#![allow(clippy::cast_precision_loss, reason = "figures have a few digits")]

use std::{
    hint::black_box,
    mem::offset_of,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_abi::event::FlowEvent;
use axoneme_flow::{ClockOffset, Feed, History, Hub, Ring, Time, history::Found};
use axoneme_hubble::{
    pb::{
        flow::{FlowFilter, flow_filter::Experimental},
        observer::{GetFlowsRequest, GetFlowsResponse},
    },
    walk::{Encoded, Line, Request, Step, Walk},
};
use axoneme_model::{
    Identity, Kind, LabelKey, Labels, ObjectRef, PeerClass, RuleRef, cidr,
    rows::{IdentityRow, IpRow, RuleId, RuleRow},
};
use prost::Message as _;

/// Pods with names, labels and addresses.
const PODS: u32 = 4096;
/// Events of a round.
const EVENTS: usize = 1 << 18;
/// What an agent keeps by default is less; this much makes every event of a round queryable.
const ROOM: usize = 1 << 18;
/// 2026-11-21T14:00:00Z, the boot of the bench's node.
const START: i64 = 1_795_269_600_000_000_000;
/// The rate at which nothing may be lost, and for how long it is kept up.
const RATE: u64 = 500_000;
const KEPT_UP: Duration = Duration::from_secs(3);
/// What a client may ask by an expression: a field that most flows fail at, and a list of each flow. No flow of the bench
/// matches, so that nothing but the asking is measured.
const BY_FIELDS: &str = "_flow.verdict == Verdict.DROPPED && _flow.l4.TCP.destination_port in [80u, 443u]";
const BY_LABELS: &str = "_flow.source.labels.exists(l, l.startsWith('k8s:team='))";

fn address(pod: u32) -> [u8; 4] {
    Ipv4Addr::from_bits(0x0a00_0000 | (pod % PODS)).octets()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes.get_mut(at..at + value.len()).expect("a field lies in its event").copy_from_slice(value);
}

/// The n-th connection: opened, or ended with its counters.
fn event(n: u32) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<FlowEvent>()];
    let (from, to) = (n.wrapping_mul(7919), n.wrapping_mul(104_729).wrapping_add(1));
    put(&mut bytes, offset_of!(FlowEvent, time), &(u64::from(n) * 1000).to_ne_bytes());
    put(&mut bytes, offset_of!(FlowEvent, source), &address(from));
    put(&mut bytes, offset_of!(FlowEvent, destination), &address(to));
    put(&mut bytes, offset_of!(FlowEvent, source_identity), &(256 + from % 512).to_ne_bytes());
    put(&mut bytes, offset_of!(FlowEvent, destination_identity), &(256 + to % 512).to_ne_bytes());
    put(&mut bytes, offset_of!(FlowEvent, rule), &(1 + n % 64).to_ne_bytes());
    put(&mut bytes, offset_of!(FlowEvent, source_port), &(n as u16 | 0x8000).to_be_bytes());
    put(&mut bytes, offset_of!(FlowEvent, destination_port), &8080u16.to_be_bytes());
    put(&mut bytes, offset_of!(FlowEvent, kind), &[if n.is_multiple_of(2) { 1 } else { 2 }]);
    put(&mut bytes, offset_of!(FlowEvent, family), &[4]);
    put(&mut bytes, offset_of!(FlowEvent, protocol), &[6]);
    bytes
}

fn hub(room: usize) -> (Arc<Hub>, Feed) {
    let (hub, mut feed) = Hub::new("n1", "bench", 1, room);
    feed.set_clock(ClockOffset(START));
    hub.names(|names| {
        for pod in 0..PODS {
            let (identity, peer) = (Identity(256 + pod % 512), PeerClass(256 + pod % 512));
            let row = IpRow {
                prefix: cidr::host(Ipv4Addr::from(address(pod)).into()),
                identity,
                peer,
                local_identity: identity,
                local_peer: peer,
                tunnel: None,
                node: if pod % 2 == 0 { "n1" } else { "n2" }.into(),
                pod: format!("ns-{}/web-7d4b9c6f5d-{pod:05}", pod % 64).into(),
            };
            names.upsert_ip(&row, Time(0));
        }
        for id in 0..512 {
            let mut labels = Labels::new();
            for (key, value) in [("app", "web"), ("tier", "front"), ("io.kubernetes.pod.namespace", "shop")] {
                labels = labels.with(LabelKey::k8s(key), &format!("{value}-{id}"));
            }
            names.upsert_identity(&IdentityRow { id: Identity(256 + id), labels });
        }
        for n in 1..=64u32 {
            let object = ObjectRef::new(Kind::NetworkPolicy, "shop", &format!("policy-{n}"));
            let rule = RuleRef { object, path: "spec.ingress[0]".into() };
            names.upsert_rule(&RuleRow { id: RuleId(n), rule, allow: true, log: None });
        }
    });
    (hub, feed)
}

/// Seconds of a core that it takes: what else the machine runs meanwhile does not count.
fn timed(work: impl FnOnce()) -> f64 {
    let began = on_core();
    work();
    on_core().saturating_sub(began).as_secs_f64()
}

/// How long this thread has run so far (proc(5), `schedstat`: the first number, in nanoseconds).
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with CONFIG_SCHED_INFO");
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).expect("nanoseconds"))
}

#[derive(Default)]
struct Samples {
    stored: Vec<f64>,
    labelled: Vec<f64>,
    encoded: Vec<f64>,
    by_messages: Vec<f64>,
    filtered: Vec<f64>,
    by_fields: Vec<f64>,
    by_labels: Vec<f64>,
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(10, |a| a.parse().expect("a number of rounds"));
    let events: Vec<Vec<u8>> = (0..EVENTS as u32).map(event).collect();
    let (hub, mut feed) = hub(ROOM);
    let mut samples = Samples::default();
    for _ in 0..rounds {
        samples.round(&hub, &mut feed, &events);
    }
    for (name, of) in [
        ("flow_decoded_and_queryable", &mut samples.stored),
        ("flow_labelled", &mut samples.labelled),
        ("flow_sent_to_a_client", &mut samples.encoded),
        ("flow_looked_at_for_drops_only", &mut samples.filtered),
        ("flow_looked_at_by_an_expression", &mut samples.by_fields),
        ("flow_looked_at_by_its_labels", &mut samples.by_labels),
    ] {
        print(name, "flows/s", of);
    }
    samples.by_messages.sort_by(f64::total_cmp);
    eprintln!(
        "sent by way of messages: {:.0} flows/s",
        samples.by_messages.get(rounds / 2).copied().unwrap_or_default()
    );
    print("flow_history_per_record", "B", &mut [History::RECORD_BYTES as f64]);
    let (taken, lost) = paced(&events);
    print("flow_lost_at_500k", "of 1M", &mut [lost as f64 * 1e6 / taken as f64]);
}

impl Samples {
    fn round(&mut self, hub: &Arc<Hub>, feed: &mut Feed, events: &[Vec<u8>]) {
        let flows = events.len() as f64;
        self.stored.push(flows / timed(|| events.iter().for_each(|e| feed.take(Ring::Flows, e))));
        let from = hub.seen() - events.len() as u64;
        let labelled = timed(|| {
            for first in (from..hub.seen()).step_by(256) {
                hub.read(|view| {
                    for n in first..(first + 256).min(hub.seen()) {
                        if let Found::Record(record) = view.history.get(n) {
                            black_box(view.flow(n, &record));
                        }
                    }
                });
            }
        });
        self.labelled.push(flows / labelled);
        self.encoded.push(flows / sent(hub, None, |line: Encoded| drop(black_box(line))));
        // the same by way of messages, in turns: what it would cost without an encoder of its own
        self.by_messages.push(flows / sent(hub, None, |line: GetFlowsResponse| drop(black_box(line.encode_to_vec()))));
        let dropped = axoneme_hubble::pb::flow::Verdict::Dropped.into();
        let drops = FlowFilter { verdict: vec![dropped], ..FlowFilter::default() };
        self.filtered.push(flows / sent(hub, Some(drops), |line: Encoded| drop(black_box(line))));
        for (samples, text) in [(&mut self.by_fields, BY_FIELDS), (&mut self.by_labels, BY_LABELS)] {
            let experimental = Some(Experimental { cel_expression: vec![text.to_owned()] });
            let filter = FlowFilter { experimental, ..FlowFilter::default() };
            let shown = std::cell::Cell::new(0);
            let seconds = sent(hub, Some(filter), |_: Encoded| shown.set(shown.get() + 1));
            assert_eq!(shown.get(), 0, "{text}: no flow of the bench matches");
            samples.push(flows / seconds);
        }
    }
}

/// Seconds of a core that a client is served in with all that the history has.
fn sent<L: Line>(hub: &Hub, filter: Option<FlowFilter>, take: impl Fn(L)) -> f64 {
    let whitelist = filter.into_iter().collect();
    let message = GetFlowsRequest { first: true, whitelist, ..GetFlowsRequest::default() };
    let mut walk = Walk::open(Request::parse(&message).expect("a request"), hub, Time(START.unsigned_abs()));
    timed(|| {
        loop {
            let (lines, more) = match walk.step(hub, 256, Time(START.unsigned_abs())) {
                Step::More(lines) => (lines, true),
                Step::Idle(lines) | Step::End(lines) => (lines, false),
            };
            lines.into_iter().for_each(&take);
            if !more {
                return;
            }
        }
    })
}

/// Events at [`RATE`] beside a follower of drops that keeps up: how many there were, and how many it was not shown.
fn paced(events: &[Vec<u8>]) -> (u64, u64) {
    let (hub, mut feed) = hub(16_384);
    let reader = {
        let hub = hub.clone();
        let dropped = axoneme_hubble::pb::flow::Verdict::Dropped.into();
        let filter = FlowFilter { verdict: vec![dropped], ..FlowFilter::default() };
        let message = GetFlowsRequest { follow: true, whitelist: vec![filter], ..GetFlowsRequest::default() };
        let mut walk: Walk = Walk::open(Request::parse(&message).expect("a request"), &hub, Time(0));
        std::thread::spawn(move || {
            let ends = Instant::now() + KEPT_UP + Duration::from_millis(200);
            while Instant::now() < ends {
                if let Step::Idle(_) = walk.step(&hub, 256, Time(0)) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        })
    };
    let (began, mut taken) = (Instant::now(), 0u64);
    while began.elapsed() < KEPT_UP {
        let due = began.elapsed().as_micros() as u64 * RATE / 1_000_000;
        for n in taken..due {
            let event = events.get(n as usize % events.len()).expect("an event");
            feed.take(Ring::Flows, event);
        }
        taken = due;
        std::thread::sleep(Duration::from_micros(500));
    }
    reader.join().expect("the follower");
    (taken, hub.lost_by_cause().values().sum())
}

/// A figure with the smallest and largest of the rounds.
fn print(name: &str, unit: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    let at = |n: usize| samples.get(n).copied().unwrap_or_default();
    let (median, least, most) = (at(samples.len() / 2), at(0), at(samples.len().saturating_sub(1)));
    println!(
        "{{\"name\":\"{name}\",\"unit\":\"{unit}\",\"ours\":{median},\"floor\":null,\"floor_name\":null,\"peer\":null,\
         \"peer_name\":null,\"ratio_to_floor\":null,\"ratio_to_peer\":null,\"spread\":[{least},{most}]}}"
    );
}

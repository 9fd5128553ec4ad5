//! What policy denies a pod, told as Events of that pod: for those who look with `kubectl describe` and not at flows.
//!
//! ```text
//!  history ─▶ denials of this node's pods ─▶ one Event at once, then one an interval with what came since ─▶ (operator)
//! ```
//!
//! *Guarantees*: the same denial (pod, direction, rule, peer, port) is told at once and then no more often than the
//! interval, with how many packets it was; a node tells [`BURST`] denials at once and one every [`EARN`] after that;
//! what is kept is bounded ([`MOST`]). Reading costs the writer of flows nothing. Where more is denied than can be told,
//! how much was left out is told with what is.
//!
//! *Caveats*: packets that were overwritten in the history before they were read are not in the counts.

use std::{
    collections::HashMap,
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use axoneme_flow::{
    Cause, Event, Flow, Time,
    flow::{Endpoint, TrafficDirection},
    history::Found,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::node::{self, BUDGET, Node};

/// The reason of these Events: the word that Cilium has for them.
pub const REASON: &str = "PacketDrop";
/// Denials that are remembered at a time.
pub const MOST: usize = 4096;
/// Denials told at once.
pub const BURST: u32 = 16;
/// One more may be told after so long.
pub const EARN: Duration = Duration::from_secs(2);
/// Bytes of a message: an Event's note may have 1024, and the node's name is put before this.
const LONGEST: usize = 700;
/// One that has caught up looks for what is due so often.
const LOOK: Duration = Duration::from_secs(1);

/// Something to tell about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub message: String,
}

/// Tells denials until cancelled; `every` is the interval, zero tells none. `tell` must not wait; false: it was too much
/// at a time, and is told with the next.
pub async fn run(
    node: Arc<Node>,
    mut every: watch::Receiver<Duration>,
    tell: impl Fn(Told) -> bool + Send,
    cancel: CancellationToken,
) {
    let mut pulse = node.pulse.clone();
    loop {
        let interval = *every.borrow_and_update();
        if interval.is_zero() {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = every.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        }
        let (mut teller, mut at) = (Teller::new(interval), node.hub.seen());
        while !cancel.is_cancelled() && !every.has_changed().unwrap_or(true) {
            let behind = teller.look(&node, &mut at);
            teller.tell(node::now(), &tell);
            if behind {
                tokio::task::yield_now().await;
            } else {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    _ = tokio::time::timeout(LOOK, pulse.changed()) => {}
                }
            }
        }
        if cancel.is_cancelled() || every.has_changed().is_err() {
            return;
        }
    }
}

/// One denial and how often it was seen.
#[derive(Debug)]
struct Denial {
    namespace: Arc<str>,
    pod: Arc<str>,
    text: String,
    /// Packets that were not told yet.
    packets: u64,
    last: Time,
    /// When it was told last; none: not yet.
    told: Option<Time>,
}

#[derive(Debug)]
struct Teller {
    interval: u64,
    known: HashMap<u64, Denial>,
    hasher: RandomState,
    /// Denials without a place among those.
    left_out: u64,
    may: u32,
    earned: Option<Time>,
}

impl Teller {
    fn new(interval: Duration) -> Self {
        Self {
            interval: nanos(interval),
            known: HashMap::new(),
            hasher: RandomState::new(),
            left_out: 0,
            may: BURST,
            earned: None,
        }
    }

    /// Looks at some records; whether there are more.
    fn look(&mut self, node: &Node, at: &mut u64) -> bool {
        let (behind, gone) = node.hub.read(|view| {
            let mut gone = 0;
            for _ in 0..BUDGET {
                match view.history.get(*at) {
                    Found::Record(r) => {
                        if r.event == Event::Drop && r.reason.is_policy() {
                            self.see(&view.flow(*at, &r), view.names.node());
                        }
                        *at += 1;
                    }
                    Found::Gone { oldest } => {
                        gone += oldest - *at;
                        *at = oldest;
                    }
                    Found::NotYet => return (false, gone),
                }
            }
            (true, gone)
        });
        node.hub.lost().add(Cause::History, gone);
        behind
    }

    fn see(&mut self, flow: &Flow, node: &str) {
        let rule = flow.extensions.rule.as_ref();
        let Some(direction) = rule.map(|r| r.direction).or(flow.traffic_direction) else { return };
        let ext = &flow.extensions;
        let (own, own_node, peer) = match direction {
            TrafficDirection::Egress => (&flow.source, &ext.source_node, &flow.destination),
            TrafficDirection::Ingress => (&flow.destination, &ext.destination_node, &flow.source),
        };
        // each node speaks for its own pods
        if own.pod_name.is_empty() || **own_node != *node {
            return;
        }
        let port = flow.ports().map(|p| p.1);
        let place = rule.map(|r| (&r.rule.kind, &r.rule.namespace, &r.rule.name, &r.rule.path));
        let peer_address = flow.ip.as_ref().map(|ip| match direction {
            TrafficDirection::Egress => ip.destination,
            TrafficDirection::Ingress => ip.source,
        });
        let egress = direction == TrafficDirection::Egress;
        let key = (&own.namespace, &own.pod_name, egress, place, peer_address, ext.protocol, port, flow.icmp_kind());
        let key = self.hasher.hash_one(key);
        if let Some(denial) = self.known.get_mut(&key) {
            denial.packets += 1;
            denial.last = denial.last.max(flow.time);
        } else if self.known.len() < MOST {
            let text = text(flow, direction, peer);
            let (namespace, pod) = (own.namespace.as_str().into(), own.pod_name.as_str().into());
            self.known.insert(key, Denial { namespace, pod, text, packets: 1, last: flow.time, told: None });
        } else {
            self.left_out += 1;
        }
    }

    /// Tells what is due, as far as it may; forgets what has not been seen for an interval.
    fn tell(&mut self, now: Time, tell: &impl Fn(Told) -> bool) {
        self.earn(now);
        let interval = self.interval;
        let due = |d: &Denial| d.packets > 0 && d.told.is_none_or(|t| now.0.saturating_sub(t.0) >= interval);
        // what was never told comes first, then the oldest
        let mut ready: Vec<(Option<Time>, Time, u64)> =
            self.known.iter().filter(|(_, d)| due(d)).map(|(key, d)| (d.told, d.last, *key)).collect();
        ready.sort_unstable();
        for (.., key) in ready {
            let Some(denial) = self.known.get_mut(&key).filter(|_| self.may > 0) else { break };
            let message = denial.message(self.left_out, now);
            if !tell(Told { namespace: denial.namespace.clone(), pod: denial.pod.clone(), message }) {
                break;
            }
            (self.may, self.left_out) = (self.may - 1, 0);
            (denial.packets, denial.told) = (0, Some(now));
        }
        self.known.retain(|_, d| d.packets > 0 || d.told.is_none_or(|t| now.0.saturating_sub(t.0) < interval));
    }

    fn earn(&mut self, now: Time) {
        let since = self.earned.map_or(0, |t| now.0.saturating_sub(t.0));
        let earned = since / nanos(EARN);
        if self.earned.is_none() || earned > 0 {
            self.may = BURST.min(self.may.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            self.earned = Some(now);
        }
    }
}

impl Denial {
    /// Never the same twice: an Event that says what one before said is not written.
    fn message(&self, left_out: u64, now: Time) -> String {
        let mut message = self.text.clone();
        let last = self.last;
        // writing to a string does not fail
        let _ = match (self.told, self.packets) {
            (None, 1) => write!(message, " at {last}"),
            (None, n) => write!(message, "; {n} packets, the last at {last}"),
            (Some(before), n) => {
                let seconds = Duration::from_nanos(now.0.saturating_sub(before.0)).as_secs();
                write!(message, "; {n} packets in the last {seconds} s, the last at {last}")
            }
        };
        if left_out > 0 {
            let _ = write!(message, "; {left_out} packets of other denials on this node were too many to tell");
        }
        message.truncate(message.floor_char_boundary(LONGEST));
        message
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// `Egress to shop/db-0 (10.0.0.2) TCP port 5432 denied by CiliumNetworkPolicy shop/web, spec.egressDeny[0]`.
fn text(flow: &Flow, direction: TrafficDirection, peer: &Endpoint) -> String {
    let (way, address) = match direction {
        TrafficDirection::Egress => ("Egress to", flow.ip.as_ref().map(|ip| ip.destination)),
        TrafficDirection::Ingress => ("Ingress from", flow.ip.as_ref().map(|ip| ip.source)),
    };
    let address = address.map_or_else(|| "no address".to_owned(), |a| a.to_string());
    let mut out = format!("{way} ");
    let protocol = axoneme_model::Protocol(flow.extensions.protocol);
    let _ = match (peer.pod_name.is_empty(), reserved(peer)) {
        (false, _) => write!(out, "{}/{} ({address}) {protocol}", peer.namespace, peer.pod_name),
        (true, Some(name)) => write!(out, "{address} ({name}) {protocol}"),
        (true, None) => write!(out, "{address} {protocol}"),
    };
    if let Some((_, port)) = flow.ports() {
        let _ = write!(out, " port {port}");
    } else if let Some(kind) = flow.icmp_kind() {
        let _ = write!(out, " type {kind}");
    }
    let _ = match &flow.extensions.rule {
        Some(hit) if hit.rule.namespace.is_empty() => {
            write!(out, " denied by {} {}, {}", hit.rule.kind, hit.rule.name, hit.rule.path)
        }
        Some(hit) => {
            let rule = &hit.rule;
            write!(out, " denied by {} {}/{}, {}", rule.kind, rule.namespace, rule.name, rule.path)
        }
        None => write!(out, " denied: no policy that applies allows it"),
    };
    out
}

/// `world`, `host`: of peers that are no pods.
fn reserved(peer: &Endpoint) -> Option<&str> {
    peer.labels.iter().find_map(|l| l.strip_prefix("reserved:"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use axoneme_flow::{DropReason, Hub, Origin, Record, TcpFlags, Traffic, Transport, Verdict, testing};
    use axoneme_model::{Direction, Identity, rows::RuleId};

    use super::*;

    const START: u64 = 1_795_269_600_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    /// 10.0.0.3 is shop/web-3 of node n1; 10.0.0.2 is another pod; rule 2 denies egress, rule 1 allows ingress.
    fn denied(at: u64, port: u16, rule: u32) -> Record {
        Record {
            time: Time(START + at * SECOND),
            event: Event::Drop,
            verdict: Verdict::Dropped,
            reason: if rule == 0 { DropReason::POLICY_DENIED } else { DropReason::POLICY_DENY },
            direction: Some(Direction::Egress),
            reply: None,
            point: axoneme_flow::Point::FromEndpoint,
            onward: axoneme_flow::Point::UnknownPoint,
            ends: Some(("10.0.0.3".parse().unwrap(), "10.0.0.2".parse().unwrap())),
            transport: Transport::Tcp { source: 40_000, destination: port, flags: TcpFlags(2) },
            source_identity: Identity(6),
            destination_identity: Identity::UNKNOWN,
            rule: RuleId(rule),
            ifindex: 2,
            length: 74,
            origin: Origin::Unknown,
            forward: Traffic::default(),
            backward: Traffic::default(),
        }
    }

    struct Bench {
        hub: Arc<Hub>,
        teller: Teller,
    }

    impl Bench {
        fn new() -> Self {
            let (hub, _feed) = Hub::new("n1", "", 1, 64);
            hub.names(|names| *names = testing::names());
            Self { hub, teller: Teller::new(Duration::from_mins(2)) }
        }

        fn see(&mut self, records: impl IntoIterator<Item = Record>) {
            for record in records {
                let flow = self.hub.read(|view| view.flow(1, &record));
                self.teller.see(&flow, "n1");
            }
        }

        fn told(&mut self, at: u64) -> Vec<String> {
            let told = RefCell::new(Vec::new());
            self.teller.tell(Time(START + at * SECOND), &|t| {
                told.borrow_mut().push(format!("{}/{}: {}", t.namespace, t.pod, t.message));
                true
            });
            told.into_inner()
        }
    }

    #[test]
    fn a_denial_is_told_at_once_and_then_once_an_interval_with_its_count() {
        let mut b = Bench::new();
        b.see([denied(0, 5432, 2)]);
        let first = b.told(0);
        assert_eq!(first.len(), 1, "{first:?}");
        assert!(first[0].starts_with("shop/web-3: Egress to "), "{first:?}");
        assert!(
            first[0].contains("(10.0.0.2) TCP port 5432") || first[0].contains("10.0.0.2 TCP port 5432"),
            "{first:?}"
        );
        let by = " denied by CiliumNetworkPolicy shop/p2, specs[1].egressDeny[0] at 2026-11-21T14:00:00Z";
        assert!(first[0].ends_with(by), "{first:?}");
        b.see((1..40).map(|n| denied(n, 5432, 2)));
        assert!(b.told(60).is_empty() && b.told(119).is_empty(), "not before the interval is over");
        let again = b.told(120);
        assert_eq!(again.len(), 1);
        assert!(again[0].contains("; 39 packets in the last 120 s, the last at 2026-11-21T14:00:39Z"), "{again:?}");
        // nothing more: forgotten, and new when it comes again
        assert!(b.told(300).is_empty() && b.teller.known.is_empty());
        b.see([denied(400, 5432, 2)]);
        let later = b.told(400);
        assert!(later.len() == 1 && later[0] != first[0], "another Event, by its time: {later:?}");
    }

    #[test]
    fn a_denial_without_a_rule_says_so_and_each_port_is_its_own() {
        let mut b = Bench::new();
        b.see([denied(0, 22, 0), denied(0, 23, 0), denied(1, 22, 0)]);
        let told = b.told(1);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|t| t.contains("denied: no policy that applies allows it")), "{told:?}");
        assert!(told.iter().any(|t| t.contains("port 22 ") && t.contains("2 packets")), "{told:?}");
    }

    #[test]
    fn a_node_speaks_for_its_own_pods_only() {
        let mut b = Bench::new();
        let from_outside =
            Record { ends: Some(("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap())), ..denied(0, 22, 2) };
        b.see([from_outside, Record { ends: None, ..denied(0, 22, 2) }]);
        let flow = b.hub.read(|view| view.flow(1, &denied(0, 22, 2)));
        b.teller.see(&flow, "another-node");
        assert!(b.teller.known.is_empty());
    }

    #[test]
    fn a_scan_is_told_in_a_few_words_and_takes_bounded_memory() {
        let mut b = Bench::new();
        b.see((0..20_000).map(|n| denied(0, n, 0)));
        assert_eq!(b.teller.known.len(), MOST);
        let told = b.told(0);
        assert_eq!(told.len(), BURST as usize);
        assert!(told[0].contains("15904 packets of other denials on this node"), "{}", told[0]);
        assert_eq!(b.told(1).len(), 0);
        assert_eq!(b.told(10).len(), 5, "one every two seconds");
        // what could not be told is not forgotten while it waits
        assert!(b.teller.known.len() > MOST - 100);
    }

    #[test]
    fn what_the_way_out_refuses_is_told_later() {
        let mut b = Bench::new();
        b.see([denied(0, 80, 2)]);
        b.teller.tell(Time(START), &|_| false);
        b.see([denied(1, 80, 2)]);
        let told = b.told(1);
        assert!(told.len() == 1 && told[0].contains("2 packets"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn events_begin_and_end_with_the_setting() {
        let (hub, mut feed) = Hub::new("n1", "", 1, 1024);
        hub.names(|names| *names = testing::names());
        let settings = node::Settings { port: 1, tls: false, version: String::new() };
        let cancel = CancellationToken::new();
        let (node, keeper) = Node::start(hub, settings, cancel.clone());
        let (every_tx, every) = watch::channel(Duration::ZERO);
        let (told_tx, mut told) = tokio::sync::mpsc::channel(64);
        let running = tokio::spawn(run(node, every, move |t| told_tx.try_send(t).is_ok(), cancel.clone()));
        feed.push(&denied(0, 1, 2));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(told.try_recv().is_err(), "off");
        every_tx.send_replace(Duration::from_mins(2));
        tokio::time::sleep(Duration::from_secs(5)).await;
        feed.push(&denied(0, 2, 2));
        let first = tokio::time::timeout(Duration::from_secs(5), told.recv()).await.unwrap().unwrap();
        assert!(first.message.contains("port 2 "), "only what came since: {first:?}");
        every_tx.send_replace(Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(5)).await;
        feed.push(&denied(0, 3, 2));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(told.try_recv().is_err(), "off again");
        cancel.cancel();
        running.await.unwrap();
        keeper.await.unwrap();
    }
}

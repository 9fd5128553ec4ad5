//! What the servers of one node share, and the task that keeps it fresh.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axoneme_flow::{Change, Hub, News, Time, history::Found};
use axoneme_runtime::clock;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::{events, export::Stats, pb, peers::Peer};

/// Readers that have caught up are woken so often while there are flows: the producer is never asked to wake anybody.
const PULSE: Duration = Duration::from_millis(40);
/// Namespaces are looked for in new flows so often.
const NAMESPACES: Duration = Duration::from_secs(5);
/// How long a namespace is listed after its last flow: what Hubble documents.
const NAMESPACE_LIFE: Duration = Duration::from_hours(1);
/// Namespaces that are listed; the ones that were silent longest go first.
const MAX_NAMESPACES: usize = 16_384;
/// Streams that are served at a time.
pub(crate) const MAX_STREAMS: usize = 512;
/// Exporters that are told apart in metrics.
const EXPORTERS: usize = 256;
/// Agent events that are kept.
const AGENT_EVENTS: usize = 4096;
/// Records that are looked at in one go.
pub(crate) const BUDGET: usize = 256;

/// What a server tells of itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Port that every node of the cluster serves on.
    pub port: u16,
    /// Whether nodes serve on that port with TLS.
    pub tls: bool,
    /// As `ServerStatus` says it.
    pub version: String,
}

/// A node's flows and what is told with them.
#[derive(Debug)]
pub struct Node {
    pub(crate) hub: Arc<Hub>,
    pub(crate) settings: Settings,
    pub(crate) streams: Arc<Semaphore>,
    /// How many events there were when the readers were last woken.
    pub(crate) pulse: watch::Receiver<u64>,
    pub(crate) peers: watch::Receiver<Arc<BTreeMap<Arc<str>, Peer>>>,
    pub(crate) events: Mutex<events::Log>,
    exporters: Mutex<BTreeMap<String, Arc<Stats>>>,
    /// `namespace/pod` of pods that are gone, of any node.
    pub(crate) gone: broadcast::Sender<Arc<str>>,
    started: Instant,
    /// Namespace and when it was last seen.
    namespaces: Mutex<BTreeMap<Arc<str>, Instant>>,
}

impl Node {
    /// Serves what `hub` has; the task ends with `cancel`.
    pub fn start(
        hub: Arc<Hub>,
        settings: Settings,
        cancel: CancellationToken,
    ) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let (pulse_tx, pulse) = watch::channel(0);
        let (peers_tx, peers) = watch::channel(Arc::default());
        let node = Arc::new(Self {
            hub,
            settings,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            pulse,
            peers,
            events: Mutex::new(events::Log::new(AGENT_EVENTS)),
            exporters: Mutex::default(),
            gone: broadcast::channel(News::ROOM).0,
            started: Instant::now(),
            namespaces: Mutex::default(),
        });
        node.log(events::started(now()));
        let keeper = Keeper {
            node: node.clone(),
            pulse: pulse_tx,
            peers: peers_tx,
            scanned: 0,
            nodes: Arc::default(),
            cluster: Arc::default(),
        };
        let task = tokio::spawn(keeper.run(cancel));
        (node, task)
    }

    /// Adds an event of the agent.
    pub fn log(&self, event: (Time, pb::flow::AgentEvent)) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// What becomes of the lines of the exporter of that name, from the first of that name on.
    #[must_use]
    pub fn exporter(&self, name: &str) -> Arc<Stats> {
        let mut all = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        // names come from a file that may change for ever
        if all.len() >= EXPORTERS && !all.contains_key(name) {
            return all.entry("other".to_owned()).or_default().clone();
        }
        all.entry(name.to_owned()).or_default().clone()
    }

    pub(crate) fn exported(&self) -> Vec<(String, Arc<Stats>)> {
        let all = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, stats)| (name.clone(), stats.clone())).collect()
    }

    /// Streams that are served now. One whose client has gone counts until the server has heard of it.
    #[must_use]
    pub fn streams(&self) -> usize {
        MAX_STREAMS - self.streams.available_permits()
    }

    pub(crate) fn cluster(&self) -> Arc<str> {
        self.hub.read(|view| view.cluster().clone())
    }

    /// `cluster/node`.
    pub(crate) fn name(&self) -> String {
        self.hub.read(|view| crate::convert::node_name(view.cluster(), view.enricher.node()))
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Records by second: of the last minute, or of the time that the history spans if that is less.
    pub(crate) fn rate(&self, now: Time) -> f64 {
        let minute = Time(now.0.saturating_sub(60_000_000_000));
        let (mut at, mut count, mut since, mut oldest) = (self.hub.seen(), 0u32, minute, now);
        // what is packed is not unpacked for this
        let ring = at.saturating_sub(self.hub.capacity());
        // in pieces, so that names are not held for long
        while self.hub.read(|view| {
            for _ in 0..BUDGET * 8 {
                let Some(before) = at.checked_sub(1) else { return false };
                match view.history.get(before) {
                    Found::Record(_) if before < ring => {
                        since = oldest;
                        return false;
                    }
                    Found::Record(r) if r.time < minute => return false,
                    Found::Record(r) => (at, count, oldest) = (before, count + 1, r.time),
                    // the ring is shorter than the minute
                    _ => {
                        since = oldest;
                        return false;
                    }
                }
            }
            true
        }) {}
        let span = now.0.saturating_sub(since.0);
        if span == 0 { 0.0 } else { f64::from(count) / Duration::from_nanos(span).as_secs_f64() }
    }

    /// Namespaces of flows of the last hour, as far as the history was looked at in time; sorted.
    pub(crate) fn namespaces(&self) -> Vec<Arc<str>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Takes up namespaces of the records from `from` on that the ring still has; where to go on.
    pub(crate) fn scan_namespaces(&self, from: u64) -> u64 {
        let mut at = from.max(self.hub.seen().saturating_sub(self.hub.capacity()));
        let mut found: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut behind = true;
        while behind {
            behind = self.hub.read(|view| {
                for _ in 0..BUDGET * 4 {
                    match view.history.get(at) {
                        Found::Record(r) => {
                            let ends = r.ends.map(|(s, d)| [s, d]).into_iter().flatten();
                            found.extend(ends.filter_map(|a| namespace(view, a, r.time)));
                            at += 1;
                        }
                        Found::Gone { oldest } => at = oldest,
                        Found::NotYet => return false,
                    }
                }
                true
            });
        }
        self.remember(found.into_iter());
        at
    }

    fn remember(&self, found: impl Iterator<Item = Arc<str>>) {
        let now = Instant::now();
        let mut known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(found.map(|n| (n, now)));
        known.retain(|_, seen| now.duration_since(*seen) < NAMESPACE_LIFE);
        while known.len() > MAX_NAMESPACES {
            let Some(oldest) = known.iter().min_by_key(|(_, seen)| **seen).map(|(n, _)| n.clone()) else { return };
            known.remove(&oldest);
        }
    }
}

fn namespace(view: &axoneme_flow::View<'_>, address: IpAddr, at: Time) -> Option<Arc<str>> {
    let peer = view.names.peer(address, at)?;
    Some(peer.pod.split_once('/')?.0.into())
}

/// Wall-clock time now.
pub(crate) fn now() -> Time {
    let since = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Writes what the [`Node`]'s readers wait for.
struct Keeper {
    node: Arc<Node>,
    pulse: watch::Sender<u64>,
    peers: watch::Sender<Arc<BTreeMap<Arc<str>, Peer>>>,
    scanned: u64,
    /// As they were when the peers were last told.
    nodes: Arc<BTreeMap<Arc<str>, Vec<IpAddr>>>,
    cluster: Arc<str>,
}

impl Keeper {
    async fn run(mut self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(PULSE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut scan_at = Instant::now();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let seen = self.node.hub.seen();
            self.pulse.send_if_modified(|old| std::mem::replace(old, seen) != seen);
            self.news();
            if scan_at <= Instant::now() {
                self.scanned = self.node.scan_namespaces(self.scanned);
                scan_at = Instant::now() + NAMESPACES;
            }
        }
    }

    /// Nodes and agent events, from what changed of the names.
    fn news(&mut self) {
        let (nodes, cluster) = self.node.hub.read(|view| (view.names.nodes().clone(), view.cluster().clone()));
        if !Arc::ptr_eq(&self.nodes, &nodes) || self.cluster != cluster {
            let Settings { port, tls, .. } = self.node.settings;
            let peer = |(name, addresses): (&Arc<str>, &Vec<IpAddr>)| {
                let address = preferred(addresses).map(|a| SocketAddr::new(a, port));
                (name.clone(), Peer::new(&cluster, name, address, tls))
            };
            self.peers.send_replace(Arc::new(nodes.iter().map(peer).collect()));
            (self.nodes, self.cluster) = (nodes, cluster);
        }
        if self.node.hub.read(|view| !view.names.has_news()) {
            return;
        }
        let news = self.node.hub.names(axoneme_flow::NameBook::take_news);
        for pod in news.changes.iter().filter_map(gone) {
            // there may be nobody who counts by pod
            let _ = self.node.gone.send(pod);
        }
        let now = now();
        for event in events::of(&news) {
            self.node.log((now, event));
        }
        self.node.events.lock().unwrap_or_else(PoisonError::into_inner).skip(news.left_out);
    }
}

/// The pod that is no more, if the change says so.
fn gone(change: &Change) -> Option<Arc<str>> {
    match change {
        Change::Endpoint { pod, gone: true, .. } => Some(pod.clone()),
        Change::Holder { before: Some(before), now, .. } if !before.pod.is_empty() => {
            (now.as_ref().is_none_or(|n| n.pod != before.pod)).then(|| before.pod.clone())
        }
        _ => None,
    }
}

/// One that everybody can reach: IPv4 before IPv6, as nodes list them.
fn preferred(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().find(|a| a.is_ipv4()).or(addresses.first()).copied()
}

/// The newest items, each with a number.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    items: VecDeque<T>,
    /// Number of the first of them.
    first: u64,
    room: usize,
}

impl<T: Clone> Ring<T> {
    pub(crate) fn new(room: usize) -> Self {
        Self { items: VecDeque::new(), first: 0, room: room.max(1) }
    }

    pub(crate) fn push(&mut self, item: T) {
        if self.items.len() == self.room {
            self.items.pop_front();
            self.first += 1;
        }
        self.items.push_back(item);
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        self.items.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use axoneme_flow::{Record, testing};
    use proptest::{
        strategy::{Strategy as _, ValueTree as _},
        test_runner::TestRunner,
    };

    use super::*;

    #[tokio::test]
    async fn the_rate_is_that_of_the_last_minute_or_of_what_is_kept() {
        let record =
            testing::arbitrary_record().prop_map(|r| r).new_tree(&mut TestRunner::deterministic()).unwrap().current();
        let (hub, mut feed) = Hub::new("n1", "", 1, 100);
        let settings = Settings { port: 1, tls: false, version: String::new() };
        let (node, _) = Node::start(hub, settings, CancellationToken::new());
        let second = 1_000_000_000;
        let now = Time(1000 * second);
        assert!(node.rate(now).abs() < 1e-9);
        // two long ago, thirty within the minute
        for at in [1, 2].into_iter().chain(970..1000) {
            feed.push(&Record { time: Time(at * second), ..record });
        }
        assert!((node.rate(now) - 0.5).abs() < 1e-9, "{}", node.rate(now));
        // the ring holds the last ten seconds
        for n in 0..100 {
            feed.push(&Record { time: Time(now.0 - 10 * second + n * second / 10), ..record });
        }
        assert!((node.rate(now) - 10.0).abs() < 1e-9, "{}", node.rate(now));
    }

    #[test]
    fn a_ring_keeps_the_newest_and_their_numbers() {
        let mut ring = Ring::new(2);
        (0..5).for_each(|n| ring.push(n));
        assert_eq!((ring.first(), ring.end(), ring.get(3), ring.get(2), ring.get(5)), (3, 5, Some(&3), None, None));
    }
}

//! From ids to names: what the rows say, and for a while what they said.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{
    Cidr, Identity, Labels, ObjectRef, Protocol,
    rows::{EndpointRow, IdentityRow, IpRow, NodeRow, RowSet, RuleId, RuleRow, ServiceRow},
};
use foldhash::fast::RandomState;

use crate::{
    flow::{Endpoint, Service, TunnelProtocol},
    time::Time,
};
pub(crate) use shown::ShownRule;
use shown::{Ends, Kept, Labelled, Rule};

mod shown;

/// Every flow asks several of them. Keys are the cluster's objects, which nobody outside chooses.
type Map<K, V> = HashMap<K, V, RandomState>;

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: Identity,
    /// `namespace/pod`; empty for addresses that are no pod's.
    pub pod: Arc<str>,
    /// Node that holds it; empty for outside.
    pub node: Arc<str>,
}

/// A map whose removed entries stay readable until `room` others have been removed after them: a flow of a pod or rule
/// that is gone still has its name.
#[derive(Debug)]
struct Retained<K, V> {
    /// Removals so far at the time when this entry was removed; none while it is current.
    entries: Map<K, (V, Option<u64>)>,
    departed: VecDeque<(K, u64)>,
    removals: u64,
    room: usize,
}

impl<K: Hash + Eq + Clone, V> Retained<K, V> {
    fn new(room: usize) -> Self {
        Self { entries: Map::default(), departed: VecDeque::new(), removals: 0, room }
    }

    fn upsert(&mut self, key: K, value: V) {
        self.entries.insert(key, (value, None));
    }

    fn remove(&mut self, key: &K) {
        let Some((_, gone @ None)) = self.entries.get_mut(key) else { return };
        self.removals += 1;
        *gone = Some(self.removals);
        self.departed.push_back((key.clone(), self.removals));
        while self.departed.len() > self.room {
            let Some((oldest, removal)) = self.departed.pop_front() else { return };
            // it may have come back meanwhile, and gone once more
            if self.entries.get(&oldest).is_some_and(|e| e.1 == Some(removal)) {
                self.entries.remove(&oldest);
            }
        }
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).map(|e| &e.0)
    }

    fn is_current<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).is_some_and(|e| e.1.is_none())
    }

    fn current(&self) -> impl Iterator<Item = &K> {
        self.entries.iter().filter(|e| e.1.1.is_none()).map(|e| e.0)
    }
}

/// A holder of a prefix and from when on.
#[derive(Debug)]
struct Tenure {
    since: Time,
    /// None: nobody held it from then on.
    peer: Option<Peer>,
    end: Kept,
}

/// Tenures of a prefix that are kept, the current one included. Addresses are reused slowly; more than this many
/// holders within the history's span means that the older ones are shown without names.
const TENURES: usize = 4;

/// Names from rows, fed by the one that holds the rows. Bounded by the rows plus the departed entries it keeps.
#[derive(Debug)]
pub struct NameBook {
    prefixes: Map<Cidr, Vec<Tenure>>,
    /// Prefix lengths in use, longest first: a lookup is one probe for each.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
    departed_prefixes: VecDeque<(Cidr, Time)>,
    pods: Retained<Arc<str>, Labelled>,
    identities: Retained<Identity, Labelled>,
    /// Identities that need no row.
    reserved: Map<Identity, Labelled>,
    /// The end that nothing is known of.
    nobody: Arc<Endpoint>,
    ends: Ends,
    rules: Retained<RuleId, Rule>,
    services: Map<(IpAddr, Protocol, u16), Arc<Service>>,
    interfaces: Retained<u32, Arc<str>>,
    /// By the index of their devices.
    tunnels: Retained<u32, TunnelProtocol>,
    node: Arc<str>,
    room: usize,
    cluster: Arc<str>,
    nodes: Arc<BTreeMap<Arc<str>, Vec<IpAddr>>>,
    news: News,
}

impl NameBook {
    /// Departed entries of each kind that an agent keeps: two days of a node where a pod a minute comes and goes.
    pub const DEPARTED: usize = 4096;

    /// The book of `node`. Keeps up to `departed` entries of each kind after their rows have gone.
    #[must_use]
    pub fn new(node: &str, departed: usize) -> Self {
        Self {
            node: node.into(),
            prefixes: Map::default(),
            lengths_v4: Vec::new(),
            lengths_v6: Vec::new(),
            departed_prefixes: VecDeque::new(),
            pods: Retained::new(departed),
            identities: Retained::new(departed),
            reserved: reserved().collect(),
            nobody: Arc::default(),
            ends: Ends::default(),
            rules: Retained::new(departed),
            services: Map::default(),
            interfaces: Retained::new(departed),
            tunnels: Retained::new(departed),
            room: departed,
            cluster: Arc::default(),
            nodes: Arc::default(),
            news: News::default(),
        }
    }

    /// Nodes of the cluster with their addresses, this one included. It is the same `Arc` as long as nothing changes.
    #[must_use]
    pub fn nodes(&self) -> &Arc<BTreeMap<Arc<str>, Vec<IpAddr>>> {
        &self.nodes
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Whether [`Self::take_news`] has something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.news.changes.is_empty()
    }

    /// What changed since the last call.
    pub fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    pub fn set_cluster(&mut self, name: &Arc<str>) {
        self.cluster = name.clone();
    }

    pub fn upsert_node(&mut self, row: &NodeRow) {
        if self.nodes.get(&row.name) != Some(&row.addresses) {
            Arc::make_mut(&mut self.nodes).insert(row.name.clone(), row.addresses.clone());
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        if self.nodes.contains_key(name) {
            Arc::make_mut(&mut self.nodes).remove(name);
        }
    }

    /// Brings the book to what the rows say. `now` is from when on changed holders count; the first call may pass
    /// zero, so that older records have names too. Cost: the size of the rows; single changes go by the other methods.
    pub fn sync(&mut self, rows: &RowSet, now: Time) {
        let gone: Vec<Cidr> = self.prefixes.keys().filter(|p| !rows.ips.contains_key(*p)).copied().collect();
        for prefix in gone {
            self.remove_ip(prefix, now);
        }
        for row in rows.ips.values() {
            self.upsert_ip(row, now);
        }
        let names: BTreeSet<Arc<str>> = rows.endpoints.values().map(pod_name).collect();
        let gone: Vec<Arc<str>> = self.pods.current().filter(|n| !names.contains(*n)).cloned().collect();
        for name in gone {
            self.note_gone(&name);
            self.pods.remove(&name);
        }
        for row in rows.endpoints.values() {
            self.upsert_endpoint(row);
        }
        let gone: Vec<Identity> =
            self.identities.current().filter(|i| !rows.identities.contains_key(*i)).copied().collect();
        for id in gone {
            self.identities.remove(&id);
        }
        for row in rows.identities.values() {
            self.upsert_identity(row);
        }
        let gone: Vec<RuleId> = self.rules.current().filter(|i| !rows.rules.contains_key(*i)).copied().collect();
        for id in gone {
            self.remove_rule(id);
        }
        for row in rows.rules.values() {
            self.upsert_rule(row);
        }
        self.services.clear();
        for row in rows.services.values() {
            self.upsert_service(row);
        }
        let nodes: BTreeMap<_, _> = rows.nodes.values().map(|n| (n.name.clone(), n.addresses.clone())).collect();
        if *self.nodes != nodes {
            self.nodes = Arc::new(nodes);
        }
        if let Some(config) = &rows.config {
            self.set_cluster(&config.cluster_name);
        }
    }

    pub fn upsert_ip(&mut self, row: &IpRow, now: Time) {
        let identity = if row.node == self.node { row.local_identity } else { row.identity };
        let peer = Peer { identity, pod: row.pod.clone(), node: row.node.clone() };
        self.set_holder(row.prefix, Some(peer), now);
    }

    pub fn remove_ip(&mut self, prefix: Cidr, now: Time) {
        if !self.prefixes.contains_key(&prefix) {
            return;
        }
        self.set_holder(prefix, None, now);
        self.departed_prefixes.push_back((prefix, now));
        while self.departed_prefixes.len() > self.room {
            let Some((oldest, gone)) = self.departed_prefixes.pop_front() else { return };
            let last = self.prefixes.get(&oldest).and_then(|t| t.last());
            if last.is_some_and(|t| t.peer.is_none() && t.since == gone) {
                // a prefix length that nobody uses any more costs a probe and no more: it stays
                self.prefixes.remove(&oldest);
            }
        }
    }

    fn set_holder(&mut self, prefix: Cidr, peer: Option<Peer>, now: Time) {
        let prefix = axoneme_model::cidr::normalise(prefix);
        let lengths = if prefix.is_ipv4() { &mut self.lengths_v4 } else { &mut self.lengths_v6 };
        if let Err(place) = lengths.binary_search_by(|length| prefix.prefix().cmp(length)) {
            lengths.insert(place, prefix.prefix());
        }
        let tenures = self.prefixes.entry(prefix).or_default();
        let before = tenures.last().and_then(|t| t.peer.clone());
        if before == peer && !tenures.is_empty() {
            return;
        }
        self.news.push(Change::Holder { prefix, before, now: peer.clone() });
        if tenures.len() == TENURES {
            tenures.remove(0);
        }
        // the first holder that we learn of counts as the holder ever since
        let since = if tenures.is_empty() { Time(0) } else { now };
        // nearly all prefixes have one: a vector would make room for four
        tenures.reserve_exact(1);
        tenures.push(Tenure { since, peer, end: Kept::default() });
        self.make_room();
    }

    pub fn upsert_endpoint(&mut self, row: &EndpointRow) {
        let name = pod_name(row);
        if row.node == self.node && !self.pods.is_current(&name) {
            self.news.push(Change::Endpoint { pod: name, labels: row.labels.clone(), gone: false });
        }
        let name = pod_name(row);
        if self.pods.get(&name).is_none_or(|known| known.labels != row.labels) {
            self.ends.outdate();
            self.make_room();
        }
        self.pods.upsert(name, Labelled::new(row.labels.clone()));
    }

    pub fn remove_endpoint(&mut self, row: &EndpointRow) {
        self.note_gone(&pod_name(row));
        self.pods.remove(&pod_name(row));
    }

    fn note_gone(&mut self, pod: &Arc<str>) {
        if self.pods.is_current(pod) {
            let labels = self.pods.get(pod).map(|l| l.labels.clone()).unwrap_or_default();
            self.news.push(Change::Endpoint { pod: pod.clone(), labels, gone: true });
        }
    }

    pub fn upsert_identity(&mut self, row: &IdentityRow) {
        if self.identities.get(&row.id).is_none_or(|known| known.labels != row.labels) {
            self.ends.outdate();
            self.make_room();
        }
        self.identities.upsert(row.id, Labelled::new(row.labels.clone()));
    }

    pub fn remove_identity(&mut self, id: Identity) {
        self.identities.remove(&id);
    }

    pub fn upsert_rule(&mut self, row: &RuleRow) {
        if !self.rules.is_current(&row.id) {
            self.news.push(Change::Rule { object: row.rule.object.clone(), gone: false });
        }
        self.rules.upsert(row.id, Rule::new(row));
    }

    pub fn remove_rule(&mut self, id: RuleId) {
        if let (true, Some(rule)) = (self.rules.is_current(&id), self.rules.get(&id)) {
            self.news.push(Change::Rule { object: rule.of.object.clone(), gone: true });
        }
        self.rules.remove(&id);
    }

    pub fn upsert_service(&mut self, row: &ServiceRow) {
        let service = Arc::new(Service { name: row.name.clone(), namespace: row.namespace.clone() });
        for f in &row.frontends {
            self.services.insert((f.address, f.protocol, f.port), service.clone());
        }
    }

    pub fn remove_service(&mut self, row: &ServiceRow) {
        for f in &row.frontends {
            self.services.remove(&(f.address, f.protocol, f.port));
        }
    }

    pub fn upsert_interface(&mut self, index: u32, name: &str) {
        self.interfaces.upsert(index, name.into());
    }

    /// A tunnel device. Devices that are gone need not be taken back: their numbers do not come again soon.
    pub fn upsert_tunnel(&mut self, index: u32, protocol: TunnelProtocol) {
        self.tunnels.upsert(index, protocol);
    }

    pub fn remove_interface(&mut self, index: u32) {
        self.interfaces.remove(&index);
    }
}

/// Answers for those who read. Absence is an answer: the flow then shows the bare id or address.
impl NameBook {
    /// The holder of the address at that time.
    #[must_use]
    pub fn peer(&self, address: IpAddr, at: Time) -> Option<&Peer> {
        self.holder(address, at)
    }

    #[must_use]
    pub(crate) fn rule(&self, rule: RuleId) -> Option<&ShownRule> {
        self.rules.get(&rule).map(Rule::shown)
    }

    /// The service with this frontend.
    #[must_use]
    pub(crate) fn service(&self, address: IpAddr, protocol: Protocol, port: u16) -> Option<&Arc<Service>> {
        self.services.get(&(address, protocol, port))
    }

    #[must_use]
    /// What packets of the tunnel device were wrapped in; of one that is not known: what is usual.
    pub(crate) fn tunnel(&self, index: u32) -> TunnelProtocol {
        self.tunnels.get(&index).copied().unwrap_or(TunnelProtocol::Vxlan)
    }

    pub(crate) fn interface(&self, index: u32) -> Option<&Arc<str>> {
        self.interfaces.get(&index)
    }

    /// Name of the cluster; none: not known yet, or it has none.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<str>> {
        Some(&self.cluster).filter(|c| !c.is_empty())
    }
}

fn reserved() -> impl Iterator<Item = (Identity, Labelled)> {
    (0..=255).map(Identity).filter_map(|id| Some((id, Labelled::new(id.reserved_labels()?))))
}

fn prefix(address: IpAddr, length: u8) -> Option<Cidr> {
    // most are of one address
    let whole = length == if address.is_ipv4() { 32 } else { 128 };
    if whole {
        Some(Cidr::from(address))
    } else {
        Some(axoneme_model::cidr::normalise(Cidr::new(address, length).ok()?))
    }
}

/// A change of what a node knows, for those who follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A pod of this node came or went.
    Endpoint { pod: Arc<str>, labels: Labels, gone: bool },
    /// Another holder of a prefix; none: nobody.
    Holder { prefix: Cidr, before: Option<Peer>, now: Option<Peer> },
    /// A rule of this policy came or went.
    Rule { object: ObjectRef, gone: bool },
}

/// The newest changes, at most [`News::ROOM`] of them: nobody may be there to take them.
#[derive(Debug, Default)]
pub struct News {
    pub changes: VecDeque<Change>,
    /// Older ones that were left out.
    pub left_out: u64,
}

impl News {
    pub const ROOM: usize = 1024;

    fn push(&mut self, change: Change) {
        if self.changes.len() == Self::ROOM {
            self.changes.pop_front();
            self.left_out += 1;
        }
        self.changes.push_back(change);
    }
}

fn pod_name(row: &EndpointRow) -> Arc<str> {
    format!("{}/{}", row.namespace, row.name).into()
}

#[cfg(test)]
mod tests {
    use axoneme_model::{Kind, LabelKey, ObjectRef, PeerClass, RuleRef};

    use super::*;

    fn row(prefix: &str, identity: u32, pod: &str) -> IpRow {
        IpRow {
            prefix: prefix.parse().unwrap(),
            identity: Identity(identity),
            peer: PeerClass(identity),
            local_identity: Identity(identity),
            local_peer: PeerClass(identity),
            tunnel: None,
            node: "n1".into(),
            pod: pod.into(),
        }
    }

    fn pod_at(book: &NameBook, at: u64) -> Option<String> {
        book.peer("10.0.0.1".parse().unwrap(), Time(at)).map(|p| p.pod.to_string())
    }

    #[test]
    fn the_longest_prefix_names_the_peer() {
        let mut book = NameBook::new("n0", 8);
        book.upsert_ip(&row("0.0.0.0/0", 2, ""), Time(5));
        book.upsert_ip(&row("10.0.0.1/32", 300, "shop/web"), Time(5));
        assert_eq!(pod_at(&book, 5).as_deref(), Some("shop/web"));
        let other = book.peer("10.0.0.2".parse().unwrap(), Time(5)).unwrap();
        assert_eq!(other.identity, Identity::WORLD);
        assert_eq!(book.peer("fd00::1".parse().unwrap(), Time(5)), None);
    }

    #[test]
    fn a_reused_address_names_the_pod_that_held_it_then() {
        let mut book = NameBook::new("n0", 8);
        book.upsert_ip(&row("10.0.0.1/32", 300, "shop/old"), Time(10));
        book.remove_ip("10.0.0.1/32".parse().unwrap(), Time(20));
        book.upsert_ip(&row("10.0.0.1/32", 301, "shop/new"), Time(30));
        assert_eq!(pod_at(&book, 19).as_deref(), Some("shop/old"));
        assert_eq!(pod_at(&book, 25), None, "nobody held it");
        assert_eq!(pod_at(&book, 30).as_deref(), Some("shop/new"));
    }

    #[test]
    fn departed_entries_are_bounded_and_current_ones_never_go() {
        let mut book = NameBook::new("n0", 2);
        let rule = |n: u32| RuleRow {
            id: RuleId(n),
            rule: RuleRef { object: ObjectRef::new(Kind::NetworkPolicy, "shop", "p"), path: "spec".into() },
            allow: true,
            log: None,
        };
        for n in 1..=4 {
            book.upsert_rule(&rule(n));
        }
        book.remove_rule(RuleId(1));
        book.upsert_rule(&rule(1));
        for n in 2..=4 {
            book.remove_rule(RuleId(n));
        }
        assert!(book.rule(RuleId(1)).is_some(), "came back");
        assert!(book.rule(RuleId(2)).is_none(), "pushed out");
        assert!(book.rule(RuleId(3)).is_some() && book.rule(RuleId(4)).is_some(), "gone, still named");
        for n in 0..100u64 {
            let prefix = format!("10.1.0.{n}/32");
            book.upsert_ip(&row(&prefix, 300, "a/b"), Time(n));
            book.remove_ip(prefix.parse().unwrap(), Time(n));
        }
        assert_eq!((book.prefixes.len(), book.departed_prefixes.len()), (2, 2));
        for n in 0..100 {
            book.upsert_ip(&row("10.2.0.1/32", n, "a/b"), Time(u64::from(n)));
        }
        assert_eq!(book.prefixes[&"10.2.0.1/32".parse().unwrap()].len(), TENURES);
    }

    /// Cluster, pod and labels of the end that holds 10.0.0.1.
    fn end(book: &NameBook, identity: u32, at: u64, cluster: &Arc<str>) -> String {
        let end = book.end("10.0.0.1".parse().ok(), Identity(identity), Time(at), cluster).0;
        format!("{} {} {}/{} {}", end.identity, end.cluster_name, end.namespace, end.pod_name, end.labels.join(","))
    }

    fn labelled(id: u32, app: &str) -> IdentityRow {
        IdentityRow { id: Identity(id), labels: Labels::new().with(LabelKey::k8s("app"), app) }
    }

    #[test]
    fn an_end_is_shared_until_something_of_it_changes() {
        let (mut book, cluster) = (NameBook::new("n0", 8), Arc::from("prod"));
        book.upsert_ip(&row("10.0.0.1/32", 300, "shop/web"), Time(10));
        book.upsert_identity(&labelled(300, "web"));
        let shared = |book: &NameBook, cluster| {
            let end = || book.end("10.0.0.1".parse().ok(), Identity::UNKNOWN, Time(10), cluster).0;
            Arc::ptr_eq(&end(), &end())
        };
        assert!(shared(&book, &cluster));
        assert_eq!(end(&book, 0, 10, &cluster), "300 prod shop/web k8s:app=web");
        assert_eq!(end(&book, 301, 10, &cluster), "301 prod shop/web ", "the identity of the record counts");
        assert_eq!(end(&book, 0, 10, &"other".into()), "300 other shop/web k8s:app=web");
        book.upsert_identity(&labelled(300, "api"));
        assert_eq!(end(&book, 0, 10, &cluster), "300 prod shop/web k8s:app=api");
        book.set_cluster(&"named".into());
        assert_eq!(end(&book, 0, 10, &cluster), "300 named shop/web k8s:app=api");
        book.upsert_ip(&row("10.0.0.1/32", 300, "shop/next"), Time(20));
        assert_eq!(end(&book, 0, 20, &cluster), "300 named shop/next k8s:app=api");
        assert_eq!(end(&book, 0, 19, &cluster), "300 named shop/web k8s:app=api");
        assert!(shared(&book, &cluster));
        book.upsert_ip(&row("10.0.0.0/24", 2, ""), Time(5));
        book.remove_ip("10.0.0.1/32".parse().unwrap(), Time(30));
        assert_eq!(end(&book, 0, 30, &cluster), "2  / reserved:world", "the wider prefix");
    }

    #[test]
    fn ends_that_are_kept_are_bounded_and_come_back() {
        let (mut book, cluster) = (NameBook::new("n0", 8), Arc::from("prod"));
        for n in 0..shown::ENDS as u32 + 10 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | n);
            book.upsert_ip(&row(&format!("{address}/32"), 300, &format!("shop/p{n}")), Time(0));
            book.end(Some(address.into()), Identity::UNKNOWN, Time(0), &cluster);
        }
        let kept = |book: &NameBook| book.prefixes.values().flatten().filter(|t| t.end.is_some()).count();
        assert_eq!(end(&book, 0, 0, &cluster), "300 prod shop/p1 ");
        assert!((1..=shown::ENDS).contains(&kept(&book)), "{}", kept(&book));
    }

    #[test]
    fn a_sync_says_what_single_changes_say() {
        let mut rows = RowSet::default();
        let r = row("10.0.0.1/32", 300, "shop/web");
        rows.ips.insert(r.prefix, r);
        let id = IdentityRow { id: Identity(300), labels: Labels::default() };
        rows.identities.insert(id.id, id);
        let mut book = NameBook::new("n0", 8);
        book.sync(&rows, Time(1));
        assert_eq!(pod_at(&book, 1).as_deref(), Some("shop/web"));
        book.sync(&RowSet::default(), Time(7));
        assert_eq!(pod_at(&book, 6).as_deref(), Some("shop/web"));
        assert_eq!(pod_at(&book, 7), None);
        book.sync(&rows, Time(9));
        assert_eq!(pod_at(&book, 9).as_deref(), Some("shop/web"));
        assert_eq!(
            *book.end(None, Identity::HOST, Time(9), &Arc::default()).0.labels,
            ["reserved:host"],
            "reserved identities need no row"
        );
    }
}

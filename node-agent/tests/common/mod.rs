//! A node in memory: fakes that outlive an engine as the kernel outlives a process, and a fuse that kills it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axoneme_cni::{Answer, Command, Request, protocol::Attachment};
use axoneme_kernel::{
    datapath::*,
    net::{self, Link, Masquerade, Network, NetworkError, Overlay, PodLink, Route, fake::FakeNetwork},
};
use axoneme_model::{
    Identity, PeerClass,
    rows::{
        AgentRow, ConntrackTimes, DirectionDefault, EndpointRow, IpRow, NodeConfigRow, NodeRow, PolicyEntry,
        PolicyKey as ModelKey, Routing, RowSet, RuleId, TableId, TableRow,
    },
};
use axoneme_node_agent::{
    base::DatapathPaths,
    engine::{DatapathFactory, Engine, Outgoing, Parts},
    reaper,
    store::{Store, StoreError},
};
use axoneme_runtime::clock::Manual;
use axoneme_wire::{
    Resume, RowType, change,
    client::{Batch, Event},
};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Counts effects down; when it is burnt the process is dead: nothing has an effect any more.
#[derive(Debug)]
pub struct Fuse {
    left: AtomicI64,
    burnt: AtomicUsize,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { left: AtomicI64::new(i64::MAX), burnt: AtomicUsize::new(0) }
    }
}

impl Fuse {
    pub fn arm(&self, effects: i64) {
        self.left.store(effects, Ordering::SeqCst);
        self.burnt.store(0, Ordering::SeqCst);
    }

    pub fn disarm(&self) {
        self.arm(i64::MAX);
    }

    pub fn is_burnt(&self) -> bool {
        self.burnt.load(Ordering::SeqCst) > 0
    }

    fn burn(&self) -> std::io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.burnt.fetch_add(1, Ordering::SeqCst);
            return Err(std::io::Error::other("the process is dead"));
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
pub struct Kernel {
    pub ips: BTreeMap<IpNetwork, IpEntry>,
    pub endpoints: BTreeMap<IpAddr, EndpointEntry>,
    /// In force with the next commit, if the process lives to see it. None: goes.
    pub staged_ips: BTreeMap<IpNetwork, Option<IpEntry>>,
    pub staged_endpoints: BTreeMap<IpAddr, EndpointEntry>,
    pub tables: BTreeMap<u16, PolicyTable>,
    pub services: BTreeMap<(IpAddr, u8, u16), ServiceEntry>,
    pub attached: BTreeSet<(Hook, u32)>,
    pub guard: Option<NodeGuard>,
    pub limits: BTreeMap<u32, Limit>,
    /// Every write in order, in words.
    pub log: Vec<String>,
    /// The states before every write, if they are wanted.
    pub history: Option<Vec<Looked>>,
    /// Tables with more entries are refused.
    pub table_capacity: usize,
    pub fail_endpoints: bool,
    pub fail_guard: bool,
    /// How full maps are said to be.
    pub fullness: Vec<Fullness>,
}

/// What packets are judged by.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    pub ips: BTreeMap<IpNetwork, IpEntry>,
    pub endpoints: BTreeMap<IpAddr, EndpointEntry>,
    pub tables: BTreeMap<u16, PolicyTable>,
}

impl Kernel {
    fn look(&self) -> Looked {
        Looked { ips: self.ips.clone(), endpoints: self.endpoints.clone(), tables: self.tables.clone() }
    }
}

/// The packet path in memory.
#[derive(Debug)]
pub struct MemoryDatapath {
    kernel: Mutex<Kernel>,
    fuse: Arc<Fuse>,
}

impl MemoryDatapath {
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap()
    }

    fn write(&self, what: String) -> Result<MutexGuard<'_, Kernel>> {
        self.fuse.burn().map_err(|source| DatapathError::Io { operation: what.clone(), source })?;
        let mut k = self.kernel();
        k.log.push(what);
        let state = k.look();
        k.history.iter_mut().for_each(|h| h.push(state.clone()));
        Ok(k)
    }

    /// What packets are judged by.
    pub fn look(&self) -> Looked {
        self.kernel().look()
    }

    pub fn writes(&self) -> usize {
        self.kernel().log.len()
    }
}

impl Datapath for MemoryDatapath {
    fn guard(&self) -> Result<Option<NodeGuard>> {
        Ok(self.kernel().guard.clone())
    }
    fn set_guard(&self, guard: Option<&NodeGuard>) -> Result<()> {
        if self.kernel().fail_guard {
            return Err(DatapathError::Full { map: "APISERVERS", capacity: 0 });
        }
        let mut k = self.write(format!("set_guard {:?}", guard.map(|g| g.slot)))?;
        assert!(guard.is_none_or(|g| k.tables.contains_key(&g.slot)), "a guard by a table that is not there");
        k.guard = guard.cloned();
        Ok(())
    }
    fn set_limit(&self, ifindex: u32, limit: Option<&Limit>) -> Result<()> {
        let mut k = self.write(format!("set_limit {ifindex} {:?}", limit.map(|l| (l.ingress, l.egress))))?;
        match limit {
            Some(limit) => drop(k.limits.insert(ifindex, *limit)),
            None => drop(k.limits.remove(&ifindex)),
        }
        Ok(())
    }
    fn limits(&self) -> Result<Vec<(u32, Limit)>> {
        Ok(self.kernel().limits.iter().map(|(k, v)| (*k, *v)).collect())
    }
    fn fullness(&self) -> Result<Vec<Fullness>> {
        Ok(self.kernel().fullness.clone())
    }
    fn stage_ip(&self, prefix: IpNetwork, entry: Option<IpEntry>) -> Result<()> {
        let what = if entry.is_some() { "upsert" } else { "remove" };
        self.write(format!("{what}_ip {prefix}"))?.staged_ips.insert(prefix, entry);
        Ok(())
    }
    fn commit(&self) -> Result<()> {
        let mut k = self.write("commit".to_owned())?;
        for (prefix, entry) in std::mem::take(&mut k.staged_ips) {
            match entry {
                Some(entry) => drop(k.ips.insert(prefix, entry)),
                None => drop(k.ips.remove(&prefix)),
            }
        }
        let mut endpoints = std::mem::take(&mut k.staged_endpoints);
        k.endpoints.append(&mut endpoints);
        Ok(())
    }
    fn ips(&self) -> Result<Vec<(IpNetwork, IpEntry)>> {
        Ok(self.kernel().ips.iter().map(|(k, v)| (*k, *v)).collect())
    }
    fn stage_endpoint(&self, address: IpAddr, entry: Option<EndpointEntry>) -> Result<()> {
        let Some(entry) = entry else {
            let mut k = self.write(format!("remove_endpoint {address}"))?;
            k.endpoints.remove(&address);
            k.staged_endpoints.remove(&address);
            return Ok(());
        };
        if self.kernel().fail_endpoints {
            return Err(DatapathError::Full { map: "endpoints", capacity: 0 });
        }
        let mut k = self.write(format!("upsert_endpoint {address} slot {}", entry.slot))?;
        assert!(k.tables.contains_key(&entry.slot), "an endpoint moves to a table that is not there");
        let there = k.endpoints.contains_key(&address);
        let of = if there { &mut k.staged_endpoints } else { &mut k.endpoints };
        of.insert(address, entry);
        Ok(())
    }
    fn endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>> {
        Ok(self.kernel().endpoints.iter().map(|(k, v)| (*k, *v)).collect())
    }
    fn put_table(&self, slot: u16, table: &PolicyTable) -> Result<()> {
        let (needed, capacity) = (table.entries.len(), self.kernel().table_capacity);
        if needed > capacity {
            return Err(DatapathError::TableTooLarge { needed: needed as u32, capacity: capacity as u32 });
        }
        self.write(format!("put_table {slot}"))?.tables.insert(slot, table.clone());
        Ok(())
    }
    fn patch_table(&self, slot: u16, upserts: &[(PolicyKey, PolicyValue)], removals: &[PolicyKey]) -> Result<()> {
        let mut k = self.write(format!("patch_table {slot} +{} -{}", upserts.len(), removals.len()))?;
        let capacity = k.table_capacity;
        let t = k.tables.get_mut(&slot).expect("a patch needs a table");
        let mut entries: BTreeMap<_, _> = t.entries.iter().copied().collect();
        entries.extend(upserts.iter().copied());
        entries.retain(|k, _| !removals.contains(k));
        if entries.len() > capacity {
            return Err(DatapathError::TableTooLarge { needed: entries.len() as u32, capacity: capacity as u32 });
        }
        t.entries = entries.into_iter().collect();
        Ok(())
    }
    fn set_defaults(&self, slot: u16, ingress: PolicyDefault, egress: PolicyDefault) -> Result<()> {
        let mut k = self.write(format!("set_defaults {slot}"))?;
        let t = k.tables.get_mut(&slot).expect("defaults need a table");
        (t.ingress_default, t.egress_default) = (ingress, egress);
        Ok(())
    }
    fn remove_table(&self, slot: u16) -> Result<()> {
        let mut k = self.write(format!("remove_table {slot}"))?;
        assert!(k.endpoints.values().all(|e| e.slot != slot), "a table is removed under an endpoint");
        assert!(k.guard.as_ref().is_none_or(|g| g.slot != slot), "a table is removed under the node's guard");
        k.tables.remove(&slot);
        Ok(())
    }
    fn tables(&self) -> Result<Vec<(u16, PolicyTable)>> {
        Ok(self.kernel().tables.iter().map(|(k, v)| (*k, v.clone())).collect())
    }
    fn upsert_service(&self, s: &ServiceEntry) -> Result<()> {
        let mut k = self.write(format!("upsert_service {}:{}", s.address, s.port))?;
        k.services.insert((s.address, s.protocol, s.port), s.clone());
        Ok(())
    }
    fn remove_service(&self, address: IpAddr, protocol: u8, port: u16) -> Result<()> {
        self.write(format!("remove_service {address}:{port}"))?.services.remove(&(address, protocol, port));
        Ok(())
    }
    fn services(&self) -> Result<Vec<ServiceEntry>> {
        Ok(self.kernel().services.values().cloned().collect())
    }
    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()> {
        self.write(format!("attach {hook:?} {ifindex}"))?.attached.insert((hook, ifindex));
        Ok(())
    }
    fn detach(&self, ifindex: u32) -> Result<()> {
        let mut k = self.write(format!("detach {ifindex}"))?;
        k.attached.retain(|(_, i)| *i != ifindex);
        k.limits.remove(&ifindex);
        Ok(())
    }
    fn attached(&self) -> Result<Vec<(Hook, u32)>> {
        Ok(self.kernel().attached.iter().copied().collect())
    }
    fn forget_connections(&self, _: IpAddr) -> Result<u32> {
        Ok(0)
    }
}

/// The fake network of a process that can die.
#[derive(Debug)]
struct Mortal(Arc<FakeNetwork>, Arc<Fuse>);

impl Mortal {
    fn burn(&self, operation: &str) -> net::Result<()> {
        self.1.burn().map_err(|source| NetworkError::Io { operation: operation.to_owned(), source })
    }
}

impl Network for Mortal {
    fn new_namespace(&self) -> net::Result<OwnedFd> {
        self.burn("namespace")?;
        self.0.new_namespace()
    }
    fn create_pod_link(&self, netns: BorrowedFd<'_>, link: &PodLink) -> net::Result<u32> {
        self.burn("create")?;
        self.0.create_pod_link(netns, link)
    }
    fn configure_pod(&self, netns: BorrowedFd<'_>, link: &PodLink) -> net::Result<()> {
        self.burn("configure")?;
        self.0.configure_pod(netns, link)
    }
    fn connect_pod_link(&self, ifindex: u32, link: &PodLink) -> net::Result<()> {
        self.burn("connect")?;
        self.0.connect_pod_link(ifindex, link)
    }
    fn fit_pod(&self, netns: &std::path::Path, ifindex: u32, link: &PodLink) -> net::Result<()> {
        self.burn("fit")?;
        self.0.fit_pod(netns, ifindex, link)
    }
    fn pod_faults(&self, netns: BorrowedFd<'_>, link: &PodLink) -> net::Result<Vec<String>> {
        self.0.pod_faults(netns, link)
    }
    fn remove_link(&self, name: &str) -> net::Result<bool> {
        self.burn("remove link")?;
        self.0.remove_link(name)
    }
    fn has_netkit(&self) -> net::Result<bool> {
        self.0.has_netkit()
    }
    fn links(&self) -> net::Result<Vec<Link>> {
        self.0.links()
    }
    fn addresses(&self) -> net::Result<Vec<(u32, IpNetwork)>> {
        self.0.addresses()
    }
    fn default_devices(&self) -> net::Result<Vec<u32>> {
        self.0.default_devices()
    }
    fn ensure_overlay(&self, overlay: Overlay) -> net::Result<u32> {
        self.0.ensure_overlay(overlay)
    }
    fn upsert_route(&self, route: &Route) -> net::Result<()> {
        self.burn("route")?;
        self.0.upsert_route(route)
    }
    fn remove_route(&self, route: &Route) -> net::Result<()> {
        self.burn("route")?;
        self.0.remove_route(route)
    }
    fn routes(&self) -> net::Result<Vec<Route>> {
        self.0.routes()
    }
    fn sysctl(&self, key: &str) -> net::Result<Option<String>> {
        self.0.sysctl(key)
    }
    fn set_sysctl(&self, key: &str, value: &str) -> net::Result<()> {
        self.0.set_sysctl(key, value)
    }
    fn set_masquerade(&self, rules: Option<&Masquerade>) -> net::Result<()> {
        self.0.set_masquerade(rules)
    }
}

/// Documents in memory.
#[derive(Debug)]
pub struct MemoryStore {
    pub documents: Mutex<BTreeMap<String, Vec<u8>>>,
    fuse: Arc<Fuse>,
    pub full: Mutex<bool>,
}

impl MemoryStore {
    fn burn(&self) -> std::result::Result<(), StoreError> {
        self.fuse.burn().map_err(|source| StoreError::Io { operation: "write", path: "memory".into(), source })
    }
}

impl Store for MemoryStore {
    fn save(&self, name: &str, document: &[u8]) -> std::result::Result<(), StoreError> {
        if *self.full.lock().unwrap() {
            return Err(StoreError::Full { path: "/run/axoneme/state".into() });
        }
        self.burn()?;
        self.documents.lock().unwrap().insert(name.to_owned(), document.to_owned());
        Ok(())
    }
    fn remove(&self, name: &str) -> std::result::Result<(), StoreError> {
        self.burn()?;
        self.documents.lock().unwrap().remove(name);
        Ok(())
    }
    fn load(&self, name: &str) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        Ok(self.documents.lock().unwrap().get(name).cloned())
    }
    fn names(&self, prefix: &str) -> std::result::Result<Vec<String>, StoreError> {
        Ok(self.documents.lock().unwrap().keys().filter(|n| n.starts_with(prefix)).cloned().collect())
    }
    fn set_aside(&self, name: &str) -> std::result::Result<(), StoreError> {
        self.documents.lock().unwrap().remove(name);
        Ok(())
    }
}

pub struct Shared(pub Arc<MemoryDatapath>);

impl DatapathFactory for Shared {
    fn open(&mut self, _: &DatapathConfig) -> Result<Arc<dyn Datapath>> {
        let mut kernel = self.0.kernel();
        kernel.staged_ips.clear();
        kernel.staged_endpoints.clear();
        drop(kernel);
        Ok(self.0.clone())
    }
}

/// The machine: what stays when the agent dies.
pub struct Node {
    pub network: Arc<FakeNetwork>,
    pub datapath: Arc<MemoryDatapath>,
    pub store: Arc<MemoryStore>,
    pub clock: Arc<Manual>,
    pub fuse: Arc<Fuse>,
}

impl Default for Node {
    fn default() -> Self {
        let fuse = Arc::new(Fuse::default());
        let network = FakeNetwork::node(&[ip("192.168.0.1")]);
        for key in [
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/conf/axn_vxlan/rp_filter",
            "net/ipv4/conf/axn_geneve/rp_filter",
            "net/ipv6/conf/eth0/accept_ra",
        ] {
            network.state().sysctls.insert(key.to_owned(), "0".to_owned());
        }
        let kernel = Kernel { table_capacity: 100, ..Kernel::default() };
        Self {
            network: Arc::new(network),
            datapath: Arc::new(MemoryDatapath { kernel: Mutex::new(kernel), fuse: fuse.clone() }),
            store: Arc::new(MemoryStore { documents: Mutex::default(), fuse: fuse.clone(), full: Mutex::new(false) }),
            clock: Arc::new(Manual::default()),
            fuse,
        }
    }
}

impl Node {
    /// A process starts.
    pub fn boot(&self) -> Engine {
        self.boot_with(None)
    }

    /// A process starts that shows flows.
    pub fn boot_with(&self, flows: Option<Arc<axoneme_flow::Hub>>) -> Engine {
        let parts = Parts {
            node: "n1".into(),
            network: Arc::new(Mortal(self.network.clone(), self.fuse.clone())),
            store: self.store.clone(),
            clock: self.clock.clone(),
            paths: DatapathPaths { pin_dir: "/sys/fs/bpf/axoneme".into(), cgroup: None },
            add_deadline: Duration::from_secs(15),
            warnings: vec![],
            flows,
            grace: None,
        };
        Engine::new(parts, Box::new(Shared(self.datapath.clone()))).unwrap()
    }

    /// Effects on the kernel so far.
    pub fn writes(&self) -> usize {
        self.datapath.writes() + self.network.writes()
    }

    /// Whatever is left of pods, in words.
    pub fn leftovers(&self) -> Vec<String> {
        let mut out: Vec<String> = self
            .network
            .state()
            .owned_links()
            .iter()
            .filter(|l| net::OverlayKind::of_link(&l.name).is_none())
            .map(|l| format!("link {}", l.name))
            .collect();
        let k = self.datapath.kernel();
        out.extend(k.endpoints.keys().map(|a| format!("endpoint {a}")));
        out.extend(k.ips.keys().filter(|p| p.prefix() == 32 && p.ip() != ip("192.168.0.1")).map(|p| format!("ip {p}")));
        out.extend(k.attached.iter().filter(|(h, _)| *h == Hook::Endpoint).map(|(_, i)| format!("programs on {i}")));
        out.extend(k.limits.keys().map(|i| format!("limit of {i}")));
        let documents = self.store.documents.lock().unwrap();
        out.extend(documents.keys().filter(|n| n.starts_with("endpoint-")).map(|n| format!("document {n}")));
        out
    }
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn net(s: &str) -> IpNetwork {
    s.parse().unwrap()
}

pub const VXLAN: Routing = Routing::Vxlan { port: 8472 };

pub fn config() -> NodeConfigRow {
    NodeConfigRow {
        node: "n1".into(),
        cluster_name: "default".into(),
        ipv4: true,
        ipv6: false,
        pools: BTreeMap::from([("default".into(), vec![net("10.0.1.0/24")])]),
        routing: VXLAN,
        mtu: 0,
        masquerade_v4: true,
        masquerade_v6: false,
        masquerade_exclude: vec![],
        cluster_cidrs: vec![net("10.0.0.0/16")],
        services: true,
        socket_lb: false,
        always_allow_own_host: true,
        deny_response: axoneme_model::rows::DenyResponse::None,
        conntrack_entries: 1024,
        conntrack_times: ConntrackTimes::default(),
        socket_lb_host_only: false,
        agent: AgentRow::default(),
        devices: vec![],
        blocks: axoneme_model::rows::BlockUse::default(),
        guard: None,
        health: None,
        overrides: vec![],
        direct: None,
        also: None,
        pod_device: axoneme_model::rows::PodDevice::Veth,
    }
}

pub fn table(id: u64, peers: std::ops::Range<u32>) -> TableRow {
    let entry = PolicyEntry { allow: true, audit: false, rule: RuleId(1), proxy_port: 0, auth: 0 };
    let key = |p| ModelKey {
        direction: axoneme_model::policy::Direction::Ingress,
        peer: PeerClass(p),
        protocol: None,
        port: 0,
        port_bits: 0,
    };
    TableRow {
        id: TableId(id),
        ingress_default: DirectionDefault { allow: false, audit: false, rule: RuleId(7) },
        egress_default: DirectionDefault { allow: true, audit: false, rule: RuleId(0) },
        entries: peers.map(|p| (key(p), entry)).collect(),
        policies: BTreeMap::new(),
    }
}

pub fn endpoint(uid: &str, table: u64) -> EndpointRow {
    EndpointRow {
        uid: uid.into(),
        namespace: "shop".into(),
        name: format!("web-{uid}").into(),
        node: "n1".into(),
        identity: Identity(300),
        peer: PeerClass(300),
        table: TableId(table),
        addresses: BTreeSet::new(),
        pool_v4: "".into(),
        pool_v6: "".into(),
        labels: axoneme_model::Labels::default(),
        bandwidth: axoneme_model::Bandwidth::default(),
    }
}

pub fn ip_row(prefix: &str, identity: u32, node: &str, pod: &str) -> IpRow {
    IpRow {
        prefix: net(prefix),
        identity: Identity(identity),
        peer: PeerClass(identity),
        local_identity: if pod.is_empty() && !node.is_empty() { Identity::HOST } else { Identity(identity) },
        local_peer: PeerClass(if pod.is_empty() && !node.is_empty() { 1 } else { identity }),
        tunnel: (!pod.is_empty()).then(|| ip("192.168.0.2")),
        node: node.into(),
        pod: pod.into(),
    }
}

/// Two nodes, one table, pods `a` and `b` on the own node.
pub fn rows() -> RowSet {
    let mut set = RowSet { config: Some(config()), ..RowSet::default() };
    for (name, address, cidr) in [("n1", "192.168.0.1", "10.0.1.0/24"), ("n2", "192.168.0.2", "10.0.2.0/24")] {
        let row = NodeRow { name: name.into(), addresses: vec![ip(address)], pod_cidrs: vec![net(cidr)] };
        set.nodes.insert(name.into(), row);
    }
    set.tables.insert(TableId(5), table(5, 256..260));
    for uid in ["a", "b"] {
        set.endpoints.insert(uid.into(), endpoint(uid, 5));
    }
    for row in [ip_row("0.0.0.0/0", 2, "", ""), ip_row("192.168.0.1/32", 6, "n1", "")] {
        set.ips.insert(row.prefix, row);
    }
    set
}

pub fn snapshot(set: &RowSet, revision: u64) -> Event {
    Event::Batch(Batch {
        at: Resume { epoch: 1, revision },
        complete: RowType::ALL.to_vec(),
        changes: change::upserts(set),
    })
}

pub fn netns() -> OwnedFd {
    std::fs::File::open("/proc/self/ns/net").unwrap().into()
}

pub fn request(command: Command, container: &str, uid: &str) -> Request {
    Request {
        command,
        container_id: container.into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{uid};K8S_POD_UID={uid}"),
        config: json!({"cniVersion": "1.1.0", "name": "axoneme", "type": "axoneme-cni"}),
    }
}

/// Asks; none if the answer is still out.
pub fn ask(engine: &mut Engine, request: Request) -> (Option<Answer>, oneshot::Receiver<Answer>) {
    let (tx, mut rx) = oneshot::channel();
    engine.cni(request, Some(netns()), tx);
    let answer = rx.try_recv().ok();
    (answer, rx)
}

/// Asks and removes links in place, as the reaper would.
pub fn run(engine: &mut Engine, request: Request) -> std::result::Result<Value, axoneme_cni::Failure> {
    let (answer, _rx) = ask(engine, request);
    match answer.expect("answered at once") {
        Answer::Done(v) => Ok(v),
        Answer::Failed(f) => Err(f),
    }
}

/// The reaper's work.
pub fn reap(node: &Node, engine: &mut Engine) {
    let batch = engine.take_doomed();
    let network = Mortal(node.network.clone(), node.fuse.clone());
    let datapath: &dyn Datapath = &*node.datapath;
    let result = reaper::remove(&batch, &network, engine.datapath().map(|_| datapath), None);
    for doomed in batch {
        engine.link_removed(&doomed, result.clone());
    }
}

pub fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.into(), ifname: "eth0".into() }
}

pub fn acks(out: &[Outgoing]) -> Vec<u64> {
    out.iter().filter_map(|o| if let Outgoing::Ack(r) = o { Some(r.revision) } else { None }).collect()
}

//! Rows: what the operator decides and the nodes obey.
//!
//! A row is keyed inside its type; the newest revision of a key replaces the older. Rows hold no opinion: an agent
//! compares them with kernel state and mends the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    bandwidth::Bandwidth,
    cidr::Cidr,
    identity::{Identity, PeerClass},
    labels::Labels,
    object::{ObjectRef, RuleRef},
    policy::Direction,
    protocol::Protocol,
    safe::{HostSettings, Safe},
};

/// Id of a policy table: a hash of the rules that apply and of the subject's named ports that they read. Endpoints with
/// the same id share one table. The *content* under an id changes as identities and addresses come and go; another set
/// of rules is another id, so that the change is make-before-break. Zero is never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId(pub u64);

/// Provenance of a verdict, resolved by [`RuleRow`]. Zero: no rule (the default of the table).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleId(pub u32);

/// Key of one entry of a policy table.
///
/// Lookup order on the node: longest match under the peer's class; if there is none, longest match under the peer's kind
/// ([`PeerClass::kind_of`], if it is of one); if there is none, longest match under [`PeerClass::ANY`]; if there is none,
/// the table's default for the direction. The compiler has already resolved precedence (tiers, deny over allow, narrow
/// and wide ports), so the first hit is final. What rules say about a whole kind is said once, and a class is named only
/// where it differs: a table's size follows the exceptions, not the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyKey {
    pub direction: Direction,
    pub peer: PeerClass,
    /// None: all protocols (then `port` is 0 and `port_bits` 0).
    pub protocol: Option<Protocol>,
    /// Destination port, or ICMP type; host byte order, bits below `port_bits` are 0.
    pub port: u16,
    /// How many leading bits of the port count: 16 one port, 0 the whole protocol.
    pub port_bits: u8,
}

impl PolicyKey {
    /// Place in the order of lookup: of two keys that match a packet, the one with the larger number is looked at first.
    ///
    /// A table that is changed entry by entry gives no verdict but that of before or of after, if entries are put from
    /// the largest number to the smallest and then removed from the smallest to the largest.
    #[must_use]
    pub fn narrowness(&self) -> u8 {
        18 * self.peer.level() + self.protocol.map_or(0, |_| 1 + self.port_bits)
    }
}

/// Verdict of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyEntry {
    pub allow: bool,
    /// It is allowed, but `rule` would deny it if it were enforced: that is to be told.
    #[serde(default)]
    pub audit: bool,
    /// The rule that decided.
    pub rule: RuleId,
    /// Redirect to this local proxy port; 0 for none. Always 0 until L7 policy lands.
    pub proxy_port: u16,
    /// Required authentication type; 0 for none. Always 0 until authentication lands.
    pub auth: u8,
}

/// What a table says where no entry matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DirectionDefault {
    pub allow: bool,
    /// As [`PolicyEntry::audit`].
    #[serde(default)]
    pub audit: bool,
    /// The first rule that isolates the subject, or that no rule does (zero).
    pub rule: RuleId,
}

/// Entries that a node's map holds of one table. Nodes refuse a larger one and keep the one before, so nobody should be
/// sent one. The agent's maps are made with the same number (a test of the agent's kernel side holds it against theirs).
pub const TABLE_ENTRIES: usize = 16_384;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    pub id: TableId,
    pub ingress_default: DirectionDefault,
    pub egress_default: DirectionDefault,
    pub entries: BTreeMap<PolicyKey, PolicyEntry>,
    /// Policies that this table enforces with the generation that it was compiled from: acknowledging the table
    /// acknowledges these.
    pub policies: BTreeMap<ObjectRef, i64>,
}

/// A pod that runs (or is about to run) on the node. Key: `uid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub node: Arc<str>,
    pub identity: Identity,
    /// What tables of other endpoints know it by, as long as its address has no [`IpRow`] yet. The `IpRow` of an address
    /// is what counts once it is there: two addresses of one pod can differ (CIDR rules that mean pods too).
    pub peer: PeerClass,
    pub table: TableId,
    /// Addresses that the operator has assigned (ipam modes that do so); else empty, and the agent takes them from
    /// its pod CIDRs.
    pub addresses: BTreeSet<IpAddr>,
    /// Pool to take addresses from in multi-pool mode, per family; empty for the default. What begins with
    /// [`NO_POOL`] is no pool: the rest says why the pod gets no address.
    pub pool_v4: Arc<str>,
    pub pool_v6: Arc<str>,
    /// All security labels, for flows.
    pub labels: Labels,
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// Whose an address is. Key: `prefix`; longest prefix wins. 0.0.0.0/0 and ::/0 are always there as world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRow {
    pub prefix: Cidr,
    /// As every node but `node` sees it (an address of a node: remote-node).
    pub identity: Identity,
    pub peer: PeerClass,
    /// As `node` itself sees it (an address of a node: host). Equal to `identity` and `peer` for everything that is not
    /// a node's address.
    pub local_identity: Identity,
    pub local_peer: PeerClass,
    /// Underlay address of the node that holds the address; none for addresses that are reached by plain routing
    /// (world, nodes themselves).
    pub tunnel: Option<IpAddr>,
    /// Node that holds it, empty for outside. An agent treats rows with its own name as local.
    pub node: Arc<str>,
    /// `namespace/pod` for pods, for flows; empty otherwise.
    pub pod: Arc<str>,
}

/// What guards a node itself: the policy of its own traffic. A node without one guards nothing, and all of it passes.
///
/// Asked in this order: the safe set ([`HostRow::safe`], which the node knows by itself, too), then the table. The node
/// looks nobody up for traffic that it has with itself, nor for what it only passes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    pub node: Arc<str>,
    /// Keyed as those of pods are, and by the same peers. Its subject is the node: of its own addresses nothing is asked.
    pub table: TableRow,
    pub settings: HostSettings,
    /// The API server's addresses, which are in the safe set.
    pub apiserver: BTreeSet<IpAddr>,
    /// The rules that the members of the safe set are told by.
    pub safe: BTreeMap<Safe, RuleId>,
}

/// What guards a node itself, as nodes are told: its table is among the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardRow {
    pub table: TableId,
    /// Members of the safe set that are left to policy.
    pub unprotected: BTreeSet<Safe>,
    /// UDP port of the overlay between nodes.
    pub overlay_port: u16,
    /// The API server's addresses, which are in the safe set.
    pub apiserver: BTreeSet<IpAddr>,
}

/// Labels of an identity, for flows. Key: `id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRow {
    pub id: Identity,
    pub labels: Labels,
}

/// Provenance. Key: `id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    pub id: RuleId,
    pub rule: RuleRef,
    pub allow: bool,
    /// The policy's own words for flows that the rule decided (`log.value`).
    #[serde(default)]
    pub log: Option<Arc<str>>,
}

/// Another node (or the own one). Key: `name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub name: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<Cidr>,
}

impl NodeRow {
    /// Where the node's health endpoint is, one address a family: the second of the first block, which no pod gets
    /// ([`Edges::Usual`]). So every node knows it without being told. None in blocks of one or two addresses, and not to
    /// be used of multi-pool blocks, whose edges are their pools' own.
    pub fn health_addresses(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        let first = |v4: bool| self.pod_cidrs.iter().find(|c| c.is_ipv4() == v4);
        [true, false].into_iter().filter_map(first).filter_map(|block| {
            if !Edges::Usual.of(*block).1.contains(&1) {
                return None;
            }
            Some(match block.network() {
                IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() + 1).into(),
                IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() + 1).into(),
            })
        })
    }

    /// Where other nodes send packets for its pods: IPv4 before IPv6, so that all of them go one way.
    #[must_use]
    pub fn underlay(&self) -> Option<IpAddr> {
        self.addresses.iter().find(|a| a.is_ipv4()).or_else(|| self.addresses.first()).copied()
    }
}

/// Key: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub frontends: Vec<Frontend>,
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy: Local`: a node uses only the backends that run on it.
    pub internal_local: bool,
}

/// One address and port of a Service with its own backends (ports differ in their endpoints).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frontend {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    /// Sorted by address and port. Empty: connections are rejected.
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    /// Serves existing connections only; chosen for new ones just when no other is left.
    pub terminating: bool,
    pub node: Arc<str>,
}

/// Settings of the node. One row.
#[expect(clippy::struct_excessive_bools, reason = "switches of the user's, each on its own")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfigRow {
    pub node: Arc<str>,
    pub cluster_name: Arc<str>,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Own pod CIDRs, or those of each pool in multi-pool mode (pool name → CIDRs; the default pool is `default`).
    pub pools: BTreeMap<Arc<str>, Vec<Cidr>>,
    pub routing: Routing,
    /// MTU of pod interfaces; 0: derive from the device and the encapsulation.
    pub mtu: u32,
    pub masquerade_v4: bool,
    pub masquerade_v6: bool,
    /// Destinations that are never masqueraded (pod CIDRs of the cluster are always excluded).
    pub masquerade_exclude: Vec<Cidr>,
    /// All pod CIDRs of the cluster.
    pub cluster_cidrs: Vec<Cidr>,
    pub services: bool,
    pub socket_lb: bool,
    pub always_allow_own_host: bool,
    #[serde(default)]
    pub deny_response: DenyResponse,
    pub conntrack_entries: u32,
    #[serde(default)]
    pub conntrack_times: ConntrackTimes,
    /// With `socket_lb`: only sockets of the node itself choose backends.
    #[serde(default)]
    pub socket_lb_host_only: bool,
    #[serde(default)]
    pub agent: AgentRow,
    /// Underlay devices; empty: those that hold a default route or a node address.
    pub devices: Vec<Arc<str>>,
    /// How the blocks of `pools` are used.
    #[serde(default)]
    pub blocks: BlockUse,
    /// None: all traffic of the node itself passes.
    #[serde(default)]
    pub guard: Option<GuardRow>,
    /// None: the node probes nobody and answers no probes.
    #[serde(default)]
    pub health: Option<HealthRow>,
    /// With the overlay: some of the nodes reach each other's pods without it. None: none do.
    #[serde(default)]
    pub direct: Option<DirectRow>,
    /// Another tunnel that packets are taken from, beside that of `routing`: nodes that are on their way from the one to
    /// the other do not change in one moment.
    #[serde(default)]
    pub also: Option<Tunnel>,
    /// Of pods that are made from now on.
    #[serde(default)]
    pub pod_device: PodDevice,
    /// In what the settings above differ from those of the cluster. For people: the node acts by the settings.
    #[serde(default)]
    pub overrides: Vec<OverrideRow>,
}

/// What connects a pod with its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodDevice {
    #[default]
    Veth,
    /// Where the kernel has it, else as [`PodDevice::Veth`].
    Netkit,
}

/// Which nodes send packets for each other's pods as they are, past the tunnel. What comes so is taken from all of them:
/// they do not begin and end in one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectRow {
    /// Prefixes of nodes' addresses, each of one link. Empty: nobody sends so yet, or any more.
    pub subnets: Vec<Cidr>,
}

impl DirectRow {
    /// The other's address that packets of this family for its pods go to: one that shares a subnet with an address of
    /// this node. Both say the same of each other, so that packets of a connection come as they are expected.
    #[must_use]
    pub fn hop(&self, own: &NodeRow, other: &NodeRow, v4: bool) -> Option<IpAddr> {
        let shared =
            |a: &IpAddr| self.subnets.iter().any(|s| s.contains(*a) && own.addresses.iter().any(|o| s.contains(*o)));
        other.addresses.iter().copied().filter(|a| a.is_ipv4() == v4).find(shared)
    }
}

/// A setting in which a node differs from the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideRow {
    /// Path in AxonemeConfig.
    pub setting: Arc<str>,
    /// Values as text; empty: not set.
    pub value: Arc<str>,
    pub cluster: Arc<str>,
    /// The object that says so: `CiliumNodeConfig namespace/name`.
    pub from: Arc<str>,
}

/// What a pod hears when its own egress policy denies what it sends. It changes no verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DenyResponse {
    /// Nothing.
    #[default]
    None,
    /// ICMP's "administratively prohibited".
    Icmp,
}

/// How nodes find out whether they reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRow {
    /// Seconds between probes of the same node, before they grow with the number of nodes.
    pub interval_seconds: u32,
    /// Nodes have health endpoints ([`NodeRow::health_addresses`]), and these are probed, too.
    pub endpoints: bool,
}

/// Seconds until idle connections are forgotten. The defaults are those of `AxonemeConfig`, and Cilium's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackTimes {
    pub tcp_opening: u32,
    pub tcp_established: u32,
    pub tcp_closing: u32,
    pub udp: u32,
    /// ICMP, SCTP and all else.
    pub other: u32,
}

impl Default for ConntrackTimes {
    fn default() -> Self {
        Self { tcp_opening: 60, tcp_established: 8000, tcp_closing: 10, udp: 60, other: 60 }
    }
}

/// What concerns the agent as a process, and the files that it writes for the container runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Arc<str>,
    /// Flows kept for those who ask later.
    pub flow_buffer: u32,
    /// Seconds between Events of the same denial; 0: none are told.
    #[serde(default)]
    pub drop_events: u32,
    /// CNI configurations of other plugins are put aside.
    pub cni_exclusive: bool,
    /// CNI plugins behind ours, in this order: JSON objects, each with a `type`.
    pub cni_chained: Vec<Arc<str>>,
}

impl Default for AgentRow {
    fn default() -> Self {
        Self {
            log_level: "info".into(),
            flow_buffer: 16_384,
            drop_events: 0,
            cni_exclusive: true,
            cni_chained: Vec::new(),
        }
    }
}

/// First character of [`EndpointRow::pool_v4`] where no pool is to be used; no pool can have such a name.
pub const NO_POOL: char = '!';

/// How a node uses the blocks of its pools.
///
/// *Expected flow* of giving a block back: the leader marks it, here it is in `releasing`; the node hands nothing out of
/// it any more and reports it as released, with `version`, once none of its addresses is in use or at rest; the leader
/// takes it away, with the precondition that the CiliumNode still has that version. A block whose mark is taken off
/// again has another version: no report from before counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockUse {
    /// Version of the CiliumNode that says which blocks the node holds. Larger is newer; 0: there is none. A node does
    /// not go back to an older one, in which it may still hold what has another owner by now.
    pub version: u64,
    /// Blocks of `pools` from which nothing is handed out.
    pub releasing: BTreeSet<Cidr>,
    /// Pools of which more or less than the usual is handed out; see [`Edges`].
    pub edges: BTreeMap<Arc<str>, Edges>,
    /// Pools whose pods keep their addresses when they talk to the outside.
    pub unmasqueraded: BTreeSet<Arc<str>>,
}

/// Which addresses of a block are handed out: all but the first, the second (the router's) and, of IPv4, the last; of a
/// multi-pool block all but the first and the last, unless its pool allows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Edges {
    #[default]
    Usual,
    Pool {
        allow_first: bool,
        allow_last: bool,
    },
}

/// Addresses of one block that are handed out at most, counted from its start: 64 times what a kubelet runs.
pub const BLOCK_SPAN: u32 = 1 << 16;

impl Edges {
    /// Addresses of the block that count, and the offsets among them that are never handed out. Of blocks of one or two
    /// addresses all are: they have no network address (RFC 3021).
    #[must_use]
    pub fn of(self, block: Cidr) -> (u32, Vec<u32>) {
        let host_bits = if block.is_ipv4() { 32 } else { 128 } - u32::from(block.prefix());
        let whole = host_bits <= BLOCK_SPAN.trailing_zeros();
        let size = if whole { 1 << host_bits } else { BLOCK_SPAN };
        if size <= 2 {
            return (size, Vec::new());
        }
        let (first, router, last) = match self {
            Self::Usual => (true, true, block.is_ipv4()),
            Self::Pool { allow_first, allow_last } => (!allow_first, false, !allow_last),
        };
        let offsets = [(first, 0), (router, 1), (last && whole, size - 1)];
        (size, offsets.into_iter().filter(|(reserved, _)| *reserved).map(|(_, o)| o).collect())
    }

    /// How many addresses of the block are handed out.
    #[must_use]
    pub fn capacity(self, block: Cidr) -> u32 {
        let (size, reserved) = self.of(block);
        size - reserved.len() as u32
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Routing {
    Vxlan { port: u16 },
    Geneve { port: u16 },
    Native { auto_direct_node_routes: bool },
}

impl Routing {
    /// What packets between nodes are wrapped in; none: they go as they are.
    #[must_use]
    pub const fn tunnel(&self) -> Option<Tunnel> {
        match *self {
            Self::Vxlan { port } => Some(Tunnel { protocol: TunnelProtocol::Vxlan, port }),
            Self::Geneve { port } => Some(Tunnel { protocol: TunnelProtocol::Geneve, port }),
            Self::Native { .. } => None,
        }
    }
}

impl From<Tunnel> for Routing {
    fn from(Tunnel { protocol, port }: Tunnel) -> Self {
        match protocol {
            TunnelProtocol::Vxlan => Self::Vxlan { port },
            TunnelProtocol::Geneve => Self::Geneve { port },
        }
    }
}

/// What packets between nodes are wrapped in. The sender's identity is the id (VNI) of either's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TunnelProtocol {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926, without options.
    Geneve,
}

/// One end of the tunnel, which is the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tunnel {
    pub protocol: TunnelProtocol,
    /// UDP port that wrapped packets are received on.
    pub port: u16,
}

/// All rows of a node, for snapshots and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSet {
    pub config: Option<NodeConfigRow>,
    pub nodes: BTreeMap<Arc<str>, NodeRow>,
    pub identities: BTreeMap<Identity, IdentityRow>,
    pub rules: BTreeMap<RuleId, RuleRow>,
    pub tables: BTreeMap<TableId, TableRow>,
    pub endpoints: BTreeMap<Arc<str>, EndpointRow>,
    pub ips: BTreeMap<Cidr, IpRow>,
    pub services: BTreeMap<(Arc<str>, Arc<str>), ServiceRow>,
}

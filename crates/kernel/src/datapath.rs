//! What the agent asks of the packet path.
//!
//! # What the packet path asks of its surroundings
//!
//! - **Pod links**: veth, or netkit in L2 mode; host side with [`HOST_MAC`], no addresses of its own (`addrgenmode none`); in the pod an
//!   on-link route to 169.254.1.1, default routes via 169.254.1.1 and fe80::1, both with permanent neighbour entries of
//!   [`HOST_MAC`]. On the host a /32 and /128 route per pod address to its link, and permanent neighbour entries with the
//!   pod's MAC. Pods' addresses without duplicate address detection (`nodad`).
//! - **Tunnel device**: `vxlan external` or `geneve external`, MAC [`HOST_MAC`], `arp off`, no learning, `addrgenmode none`. Routes of other
//!   nodes' pod CIDRs into it with an own node address as `src`.
//! - **Node**: forwarding on for both families; `rp_filter` 0 on pod links, tunnel device and `all` (packets from pods
//!   reach each other without passing the stack, so that what the stack sees is one-sided).
//! - **ipcache**: `0.0.0.0/0` and `::/0` as world; every node address as a host prefix with `is_node`, the own ones with
//!   identity host. `tunnel` of a pod is its node's underlay address in overlay mode; with native routing it is the next
//!   hop on the uplink's link (the node's address, where nodes are neighbours; family of the pod's address), or none
//!   where a router knows the way (then the stack routes). With `direct` the stack routes packets for the pod, past the
//!   tunnel of the overlay; the route may follow later, and go earlier. A node address whose family the tunnel does not speak (IPv6
//!   over an IPv4 underlay) needs `tunnel` set to the node's underlay address, for replies to what came by the tunnel;
//!   in all other cases it is implied.
//! - **Order for a new pod**: table, ipcache, endpoints, then [`Datapath::attach`], then the answer to the runtime.
//!   **For a pod that goes**: endpoints, ipcache, [`Datapath::forget_connections`], its link, [`Datapath::detach`], table:
//!   programs stay while there is a link, which would be open without them.
//! - **Collection**: `BpfDatapath::gc` every 30 s or so; events by `BpfDatapath::events`, asked 10 to 100 times a second.
//!
//! [`HOST_MAC`]: axoneme_abi::constants::HOST_MAC

use std::{fmt::Debug, net::IpAddr};

pub use axoneme_abi::policy::kind as peer_kind;
use axoneme_abi::policy::{KIND_PODS_V4, KIND_WORLD_V6};
use ipnetwork::IpNetwork;

/// Why a datapath call failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A map is full: nothing was changed for this key.
    #[error("map {map} is full ({capacity} entries): {}", when_full(map))]
    Full { map: &'static str, capacity: u32 },
    /// The table has more entries than a policy map can hold: the last-good table stays in force.
    #[error("policy table needs {needed} entries, the map holds {capacity}")]
    TableTooLarge { needed: u32, capacity: u32 },
    /// A program did not load; `log` holds the end of the verifier's message.
    #[error("program {program} did not load: {message}\n{log}")]
    Load { program: &'static str, message: String, log: String },
    #[error("{operation}: {source}")]
    Io { operation: String, source: std::io::Error },
}

pub type Result<T> = std::result::Result<T, DatapathError>;

/// Value of an ipcache entry. Key: a prefix; longest match wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpEntry {
    pub identity: u32,
    /// Peer class, the key of policy tables.
    pub peer: u32,
    /// Underlay address of the node that holds it; none for plain routing.
    pub tunnel: Option<IpAddr>,
    /// A node's own address: policy sees `identity` (host, remote-node), and packets are routed by the stack.
    pub is_node: bool,
    /// Packets to it are routed by the stack, which has a route past the tunnel. With `tunnel` they may take either way
    /// while that route changes. Only where [`DatapathConfig::direct`].
    pub direct: bool,
}

/// A local endpoint's address. Key: address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointEntry {
    /// Index of the host side of the pod's link.
    pub ifindex: u32,
    pub identity: u32,
    pub peer: u32,
    /// Local slot of its policy table.
    pub slot: u16,
    pub mac: [u8; 6],
}

/// As the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Key of a policy table entry: see `axoneme_model::rows::PolicyKey`, whose lookup order it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    pub direction: Direction,
    /// Class; a number of [`peer_kind`]: everyone of the kind; 0: whoever.
    pub peer: u32,
    /// IP protocol; 0: all.
    pub protocol: u8,
    /// Host byte order.
    pub port: u16,
    /// Leading bits of `port` that count (0–16).
    pub port_bits: u8,
}

impl PolicyKey {
    /// Whether it is about one class, not about everyone of a kind, or whoever.
    #[must_use]
    pub const fn is_of_class(&self) -> bool {
        !matches!(self.peer, 0 | KIND_PODS_V4..=KIND_WORLD_V6)
    }

    /// Place in the order of lookup: of two keys that match a packet, the one with the larger number is looked at first.
    #[must_use]
    pub const fn narrowness(&self) -> u8 {
        let level = match self.peer {
            0 => 0,
            KIND_PODS_V4..=KIND_WORLD_V6 => 1,
            _ => 2,
        };
        let ports = if self.protocol == 0 { 0 } else { 1 + self.port_bits };
        18 * level + ports
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyValue {
    pub allow: bool,
    /// It is allowed, but `rule` would deny it if it were enforced: that is told.
    pub audit: bool,
    pub rule: u32,
    pub proxy_port: u16,
    pub auth: u8,
}

/// A whole policy table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyTable {
    /// What holds where no entry matches.
    pub ingress_default: PolicyDefault,
    pub egress_default: PolicyDefault,
    pub entries: Vec<(PolicyKey, PolicyValue)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyDefault {
    pub allow: bool,
    /// As [`PolicyValue::audit`].
    pub audit: bool,
    pub rule: u32,
}

/// One frontend of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceEntry {
    pub address: IpAddr,
    pub protocol: u8,
    pub port: u16,
    /// Backends for new connections, in a stable order. Empty: reject.
    pub backends: Vec<(IpAddr, u16)>,
    pub affinity_seconds: u32,
}

/// What guards the node's own traffic: the host firewall. See `axoneme_abi::guard`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeGuard {
    /// Slot of the node's table, which is put before the guard is set and removed after it is gone.
    pub slot: u16,
    /// Members of the safe set (`axoneme_abi::guard::SAFE_*`) that are left to policy.
    pub unprotected: u32,
    /// UDP port of the overlay.
    pub overlay_port: u16,
    /// The API server's addresses.
    pub apiservers: std::collections::BTreeSet<IpAddr>,
}

/// How much of a pod's traffic passes. Key: host side of its link.
///
/// What is more waits in a queue, and what finds the queue full is dropped by the kernel and counted
/// ([`Datapath::limit_drops`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Link-layer address of the pod's side; not zero.
    pub mac: [u8; 6],
    /// To the pod: bytes a second with link-layer headers; 0: as many as come.
    pub ingress: u64,
    /// From the pod.
    pub egress: u64,
}

/// A device that packets enter from or leave to the underlay by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Host side of a pod's link: ingress (from the pod) and egress (from the host to the pod).
    Endpoint,
    /// Underlay device.
    Uplink,
    /// The tunnel device.
    Overlay,
}

/// Seconds until an idle connection is forgotten. The defaults are Cilium's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, until the handshake is done.
    pub tcp_opening: u32,
    pub tcp_established: u32,
    /// TCP, after a reset or the end of both directions.
    pub tcp_closing: u32,
    pub udp: u32,
    /// All other protocols.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp_opening: 60, tcp_established: 8000, tcp_closing: 10, udp: 60, other: 60 }
    }
}

/// Load-time settings; a change loads the programs anew and updates the links in place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each a load-time constant")]
pub struct DatapathConfig {
    /// 0 in native routing.
    pub overlay_ifindex: u32,
    pub uplink_ifindex: u32,
    pub native_routing: bool,
    /// Packets of other nodes' pods are taken from the underlay, beside the tunnel.
    pub direct: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Own underlay addresses, first of each family is the tunnel source.
    pub node_addresses: Vec<IpAddr>,
    pub allow_own_host: bool,
    /// What a pod's own egress policy denies is answered with "administratively prohibited".
    pub answer_denied: bool,
    pub services: bool,
    pub socket_lb: bool,
    /// Only sockets of the network namespace that this process is in choose backends, those of pods do not. A kernel that
    /// cannot tell (before 5.14) leaves Services of all sockets to the packet path.
    pub socket_lb_host_only: bool,
    /// The host firewall's programs are loaded, and its maps are made in full size: [`Datapath::set_guard`] can be called.
    pub host_firewall: bool,
    pub conntrack_entries: u32,
    pub timeouts: Timeouts,
    /// Owned directory below a bpffs for all pins.
    pub pin_dir: std::path::PathBuf,
    /// cgroup v2 directory for socket hooks; none: no socket load balancing.
    pub cgroup: Option<std::path::PathBuf>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fullness {
    /// Its name. `POLICY` is the largest policy table.
    pub map: &'static str,
    /// Entries; of connections those that the last walk over them has left.
    pub used: u32,
    pub capacity: u32,
}

impl Fullness {
    /// Rounded down.
    #[must_use]
    pub fn percent(&self) -> u32 {
        let percent = u64::from(self.used) * 100 / u64::from(self.capacity.max(1));
        u32::try_from(percent).unwrap_or(u32::MAX)
    }
}

/// What a full map means, and what to do.
#[must_use]
pub fn when_full(map: &str) -> &'static str {
    match map {
        "CT4" | "CT6" => {
            "connections that were idle longest are forgotten, and judged as new ones when they go on; raise \
             spec.conntrack.maxEntries of AxonemeConfig"
        }
        "IPCACHE4" | "IPCACHE6" => {
            "an address beyond is judged by the range around it, as a rule as the world; fewer CIDRs in policies, or \
             fewer pods in the cluster"
        }
        "ENDPOINTS4" | "ENDPOINTS6" => "no pod can be added; fewer pods on this node (spec.maxPods of its kubelet)",
        "NODES" => "pods of nodes beyond are not reached through the overlay; native routing has no such limit",
        "SLOTS" => {
            "pods to which other policies apply than to all others of this node are not added; fewer of these here"
        }
        "POLICY" => {
            "a table that does not fit stays as it was; fewer peers or ports in the policies that select its pods"
        }
        _ => "a Service beyond is not translated; fewer Services or endpoints",
    }
}

/// The packet path of one node. All calls are synchronous and short; a call that fails changed nothing for its key.
///
/// *Guarantees*: `put_table` is atomic for packets (they see the old or the new table, never a mixture) and invalidates
/// cached verdicts of the slot; `patch_table` applies upserts before removals; `attach` returns only when the programs
/// are in the packets' way; who is behind addresses (identity, class, slot) changes for every packet in one moment,
/// `commit`, for all that was staged before it. *Assumptions*: one process at a time holds a pin directory (the caller locks it).
pub trait Datapath: Send + Sync + Debug {
    /// Has the prefix (none: no more) with the next [`Self::commit`]. Where to send packets for it changes at once.
    fn stage_ip(&self, prefix: IpNetwork, entry: Option<IpEntry>) -> Result<()>;
    /// Has the endpoint with the next [`Self::commit`]. One that is new, and one that goes, at once.
    fn stage_endpoint(&self, address: IpAddr, entry: Option<EndpointEntry>) -> Result<()>;
    /// Puts in force what was staged. Connections are judged anew with their next packet. When it returns, no packet is
    /// judged any more by what was before: where something has changed hands this takes milliseconds. Without anything
    /// staged this is no write. After an error part of it may be in force; another call goes on.
    fn commit(&self) -> Result<()>;

    fn upsert_ip(&self, prefix: IpNetwork, entry: IpEntry) -> Result<()> {
        self.stage_ip(prefix, Some(entry))?;
        self.commit()
    }
    fn remove_ip(&self, prefix: IpNetwork) -> Result<()> {
        self.stage_ip(prefix, None)?;
        self.commit()
    }
    /// Everything in the ipcache, for the first diff after a restart.
    fn ips(&self) -> Result<Vec<(IpNetwork, IpEntry)>>;

    fn upsert_endpoint(&self, address: IpAddr, entry: EndpointEntry) -> Result<()> {
        self.stage_endpoint(address, Some(entry))?;
        self.commit()
    }
    fn remove_endpoint(&self, address: IpAddr) -> Result<()> {
        self.stage_endpoint(address, None)?;
        self.commit()
    }
    fn endpoints(&self) -> Result<Vec<(IpAddr, EndpointEntry)>>;

    /// Replaces the slot's table.
    fn put_table(&self, slot: u16, table: &PolicyTable) -> Result<()>;
    fn patch_table(&self, slot: u16, upserts: &[(PolicyKey, PolicyValue)], removals: &[PolicyKey]) -> Result<()>;
    fn set_defaults(&self, slot: u16, ingress: PolicyDefault, egress: PolicyDefault) -> Result<()>;
    fn remove_table(&self, slot: u16) -> Result<()>;
    /// Slots in use with their contents.
    fn tables(&self) -> Result<Vec<(u16, PolicyTable)>>;
    /// The contents of one slot; none for one that is not in use.
    fn table(&self, slot: u16) -> Result<Option<PolicyTable>> {
        Ok(self.tables()?.into_iter().find(|(s, _)| *s == slot).map(|(_, t)| t))
    }

    fn upsert_service(&self, service: &ServiceEntry) -> Result<()>;
    fn remove_service(&self, address: IpAddr, protocol: u8, port: u16) -> Result<()>;
    fn services(&self) -> Result<Vec<ServiceEntry>>;

    /// Puts the programs of the hook on the interface, or updates the links that are pinned for it.
    fn attach(&self, hook: Hook, ifindex: u32) -> Result<()>;
    /// Removes links and pins of the interface.
    fn detach(&self, ifindex: u32) -> Result<()>;
    /// Interfaces with pinned links.
    fn attached(&self) -> Result<Vec<(Hook, u32)>>;

    /// What guards the node itself; none: its traffic passes.
    fn guard(&self) -> Result<Option<NodeGuard>>;
    /// Guards the node by a table that is there, on all interfaces that have programs and on those that get them later.
    /// The guard is put in force last, when everything that it needs is there. None: it is taken away first, then what it
    /// needed. Connections are judged anew with their next packet.
    ///
    /// Errors: the datapath was opened without [`DatapathConfig::host_firewall`]; there is no such table; the kernel. After
    /// an error the former guard may be in force; another call goes on.
    fn set_guard(&self, guard: Option<&NodeGuard>) -> Result<()>;

    /// Limits the traffic of a link that has its programs, or no longer does. A rate is changed in place. Packets of other
    /// links are not touched; of this link those that wait in a queue are lost when it goes. Repeatable after an error.
    fn set_limit(&self, ifindex: u32, limit: Option<&Limit>) -> Result<()>;
    /// Limits in force, for the first diff after a restart. One that was left half made differs from what it was to be.
    fn limits(&self) -> Result<Vec<(u32, Limit)>>;
    /// Packets that found a queue full, to the pod behind each link with a limit and from it, since the queue is there.
    fn limit_drops(&self) -> Result<Vec<(u32, [u32; 2])>> {
        Ok(Vec::new())
    }

    /// How full the maps are that can become full. This walks over some of them. None: there are no such maps.
    fn fullness(&self) -> Result<Vec<Fullness>> {
        Ok(Vec::new())
    }

    /// Forgets connections of an address (after its pod is gone).
    fn forget_connections(&self, address: IpAddr) -> Result<u32>;
    /// The same for several addresses: one walk over the connections, not one an address.
    fn forget_connections_of(&self, addresses: &[IpAddr]) -> Result<u32> {
        addresses.iter().try_fold(0u32, |n, a| Ok(n.saturating_add(self.forget_connections(*a)?)))
    }
}

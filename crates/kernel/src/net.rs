//! What the agent asks of the node's network stack: links, routes, neighbours, sysctls, masquerading.
//!
//! ```text
//!   pod netns                         │ node netns
//!   eth0 10.0.1.7/32, fd00::7/128     │  axn5f3a… (HOST_MAC), route 10.0.1.7 dev axn5f3a…, permanent neighbour
//!   default via 169.254.1.1, fe80::1 ─┼─▶  axn_vxlan or axn_geneve (HOST_MAC), route 10.0.2.0/24 via 169.254.1.1 onlink
//!   neighbour of both = HOST_MAC      │  nft table `axoneme`: masquerading
//! ```
//!
//! Every object made here is found again by name prefix ([`LINK_PREFIX`]), route protocol ([`ROUTE_PROTOCOL`]) or table
//! name, so that it can be adopted after a restart and removed without any record of it.

use std::{
    fmt::{self, Debug},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use ipnetwork::IpNetwork;

pub mod descriptor;
pub mod fake;
mod masquerade;
mod message;
pub mod mtu;
mod netlink;
mod pod;
mod socket;
mod sysctl;

pub use netlink::Netlink;
pub use pod::listen_in;

/// Names of all links that the agent makes start so.
pub const LINK_PREFIX: &str = "axn";
/// Host side of the node's health endpoint.
pub const HEALTH_LINK: &str = "axn_health";
/// Marks routes as ours (`ip route show proto 97`); not in use by any daemon listed in iproute2's `rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 97;
/// nftables table (family inet) that holds all our rules.
pub const NFT_TABLE: &str = "axoneme";
/// MAC of the host side of every pod link and of the tunnel device: locally administered, the same everywhere, so that
/// a frame needs no rewrite whichever of them it enters by.
pub const HOST_MAC: Mac = Mac(axoneme_abi::constants::HOST_MAC);
/// Next hop of pods; answered by a permanent neighbour, never by a packet.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Next hop of pods for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The next hop of the address's family.
pub fn gateway(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a network call failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{operation}: not permitted: the agent needs CAP_NET_ADMIN (and CAP_SYS_ADMIN to enter pod namespaces)")]
    Permission { operation: String },
    /// `message` is the kernel's own explanation where it gave one.
    #[error("{operation}: {message}")]
    Kernel { operation: String, errno: i32, message: String },
    /// The kernel knows no devices of that kind, and found no module for them.
    #[error(
        "cannot make {link}: this kernel has no {module} devices, and no module {module} was found for it: install and \
         load it (`modprobe {module}` on the node), or {instead}"
    )]
    NoSuchDevice { link: String, module: &'static str, instead: &'static str },
    /// The pod already has an interface of that name.
    #[error(
        "interface {name} already exists in the pod's network namespace: another plugin made it, or an earlier ADD was not undone"
    )]
    PodLinkExists { name: String },
    #[error("{operation}: {source}")]
    Io { operation: String, source: std::io::Error },
    #[error("nftables {operation}: {message}")]
    Nft { operation: &'static str, message: String },
    #[error("{0}")]
    Mtu(#[from] mtu::MtuError),
}

pub type Result<T> = std::result::Result<T, NetworkError>;

/// What connects a pod with its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PodDevice {
    #[default]
    Veth,
    /// In L2 mode: frames are those of veth. Programs are on the host side, as with veth.
    Netkit,
}

/// A pod's interface and its host side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    pub device: PodDevice,
    /// Host side; starts with [`LINK_PREFIX`], at most 15 bytes.
    pub host_name: String,
    /// As the container runtime asks for it (`CNI_IFNAME`).
    pub pod_name: String,
    pub pod_mac: Mac,
    pub mtu: u32,
    /// At most one a family.
    pub addresses: Vec<IpAddr>,
    /// Written on the host side (`ip link` shows it); names the owner.
    pub alias: String,
    /// Source of the node's own packets to the pod, per family: the node's addresses.
    pub sources: Vec<IpAddr>,
}

/// A link of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub ifindex: u32,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
    pub alias: String,
    pub loopback: bool,
}

/// What a tunnel device wraps packets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OverlayKind {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

impl OverlayKind {
    pub const ALL: [Self; 2] = [Self::Vxlan, Self::Geneve];

    /// Name of the device: a node may have one of each.
    pub const fn link(self) -> &'static str {
        match self {
            Self::Vxlan => "axn_vxlan",
            Self::Geneve => "axn_geneve",
        }
    }

    /// The kernel's name of such devices, and of the module that makes them.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }

    /// The tunnel device of this name; none: it is another device.
    pub fn of_link(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.link() == name)
    }
}

/// A tunnel device, whose remote end and VNI come with each packet (collect metadata).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub kind: OverlayKind,
    /// UDP port on the underlay.
    pub port: u16,
    pub mtu: u32,
}

/// A route of ours in the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNetwork,
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
    /// The gateway is on the link whatever the addresses say.
    pub onlink: bool,
    /// Source of the node's own packets.
    pub source: Option<IpAddr>,
}

/// What leaves under the node's address.
///
/// Packets from `sources` that leave by one of `devices` are masqueraded unless their destination is in `exclude`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Masquerade {
    pub sources: Vec<IpNetwork>,
    pub devices: Vec<String>,
    pub exclude: Vec<IpNetwork>,
}

/// The network stack of one node. All calls are synchronous.
///
/// *Guarantees*: calls that make something succeed when it is already so; calls that remove something succeed when it
/// is already gone. *Assumptions*: called from a thread in the node's network namespace.
pub trait Network: Send + Sync + Debug {
    /// A new network namespace, which nothing but this descriptor (and what is opened in it) holds: it ends with the
    /// process at the latest, and takes its links along.
    fn new_namespace(&self) -> Result<OwnedFd>;
    /// Makes the pair: peer directly in `netns`, both sides down. A host side of the same name that is left from
    /// earlier is replaced. Returns the host side's interface index.
    fn create_pod_link(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<u32>;
    /// Whether this kernel can make [`PodDevice::Netkit`]. Makes nothing; a module that is there is loaded by it.
    fn has_netkit(&self) -> Result<bool>;
    /// Inside the pod: addresses, up, gateway neighbours, default routes.
    fn configure_pod(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<()>;
    /// The same beside `work`, which is done on the calling thread. Both are over when it returns.
    fn configure_pod_beside(&self, netns: BorrowedFd<'_>, link: &PodLink, work: &mut dyn FnMut()) -> Result<()> {
        work();
        self.configure_pod(netns, link)
    }
    /// On the node: up, routes and permanent neighbours to the pod's addresses.
    fn connect_pod_link(&self, ifindex: u32, link: &PodLink) -> Result<()>;
    /// Gives a running pod another MTU, that of `link`. `netns`: path of its namespace as the runtime gave it; `ifindex`:
    /// host side.
    ///
    /// *Guarantees*: no packet is lost by it. Where it shrinks, the pod's routes say so and its devices stay as they
    /// are: a veth drops what is longer than the receiving side's MTU, without a word to the sender, and peers whose
    /// connections began with the larger one go on with it until their own routes say less. Where it grows, devices
    /// come first, then routes.
    fn fit_pod(&self, netns: &Path, ifindex: u32, link: &PodLink) -> Result<()>;
    /// What is not as [`Network::configure_pod`] and [`Network::connect_pod_link`] left it, in words; empty: nothing.
    fn pod_faults(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<Vec<String>>;
    /// Whether it was there.
    fn remove_link(&self, name: &str) -> Result<bool>;
    /// Removes all of them. Those that are gone already are passed over.
    fn remove_links(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|n| self.remove_link(n).map(|_| ()))
    }
    fn links(&self) -> Result<Vec<Link>>;
    /// Addresses of the node's links by interface index.
    fn addresses(&self) -> Result<Vec<(u32, IpNetwork)>>;
    /// Interfaces that hold a default route.
    fn default_devices(&self) -> Result<Vec<u32>>;
    /// Makes the tunnel device of this kind, or makes it anew when port differs; returns its index.
    ///
    /// Errors: [`NetworkError::NoSuchDevice`] where the kernel knows no such devices.
    fn ensure_overlay(&self, overlay: Overlay) -> Result<u32>;
    fn upsert_route(&self, route: &Route) -> Result<()>;
    fn remove_route(&self, route: &Route) -> Result<()>;
    /// All routes of ours, those to pods included.
    fn routes(&self) -> Result<Vec<Route>>;
    /// None: this kernel has no such setting.
    fn sysctl(&self, key: &str) -> Result<Option<String>>;
    fn set_sysctl(&self, key: &str, value: &str) -> Result<()>;
    /// Makes the nft table so; none removes it. No write when it is so already.
    fn set_masquerade(&self, rules: Option<&Masquerade>) -> Result<()>;
}

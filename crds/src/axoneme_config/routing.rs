use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How packets get from node to node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Routing {
    /// Overlay wraps packets between nodes; it works on any network. Native sends them as they are: the network, or
    /// routes on each node, must know where pods live. Hybrid sends them as they are between nodes of one subnet, and wraps
    /// the others.
    pub mode: RoutingMode,

    /// Settings of modes Overlay and Hybrid.
    pub overlay: Overlay,

    /// Settings of mode Native.
    pub native: NativeRouting,

    /// Settings of mode Hybrid.
    pub hybrid: HybridRouting,
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum RoutingMode {
    /// Wrapped in packets between nodes.
    #[default]
    Overlay,
    /// As they are.
    Native,
    /// As they are between nodes of one subnet, wrapped between others.
    Hybrid,
}

/// Settings of routing mode Overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Overlay {
    /// The protocol that wraps packets.
    pub protocol: OverlayProtocol,

    /// The UDP port that nodes receive wrapped packets on. It must be open between nodes. Without it: 8472 for VXLAN, 6081
    /// for Geneve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub port: Option<u16>,
}

/// The protocol that wraps packets between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum OverlayProtocol {
    /// RFC 7348.
    #[default]
    VXLAN,
    /// RFC 8926, without options. The nodes' kernels need the module geneve.
    Geneve,
}

impl OverlayProtocol {
    /// The UDP port where none is set.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            // what Linux and Cilium use; 4789 (RFC 7348) is often taken by the network's own VXLAN
            Self::VXLAN => 8472,
            // RFC 8926
            Self::Geneve => 6081,
        }
    }
}

/// Settings of routing mode Hybrid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HybridRouting {
    /// The subnets of the nodes' addresses, such as 10.0.1.0/24, each of which is one link. Nodes with an address in the
    /// same one send packets for each other's pods past the tunnel, for the address families that the subnets are of. All
    /// nodes must have them alike.
    #[schemars(extend("maxItems" = 256, "x-kubernetes-list-type" = "set"))]
    #[schemars(with = "Vec<crate::schema::CelCidr>")]
    pub subnets: Vec<String>,
}

/// Settings of routing mode Native.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NativeRouting {
    /// The IPv4 prefix that the network can route without the node's address in front; what goes there is not
    /// masqueraded. Without it: the prefixes that pods get their addresses from.
    #[serde(rename = "ipv4CIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<crate::schema::CelCidr>",
        extend("x-kubernetes-validations" = [
            {"rule": "isCIDR(self)", "message": "must be a prefix, such as 10.0.0.0/8"},
            {"rule": "!isCIDR(self) || cidr(self).ip().family() == 4", "message": "must be an IPv4 prefix"}
        ])
    )]
    pub ipv4_cidr: Option<String>,

    /// The IPv6 prefix that the network can route without the node's address in front; what goes there is not
    /// masqueraded. Without it: the prefixes that pods get their addresses from.
    #[serde(rename = "ipv6CIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<crate::schema::CelCidr>",
        extend("x-kubernetes-validations" = [
            {"rule": "isCIDR(self)", "message": "must be a prefix, such as fd00::/8"},
            {"rule": "!isCIDR(self) || cidr(self).ip().family() == 6", "message": "must be an IPv6 prefix"}
        ])
    )]
    pub ipv6_cidr: Option<String>,

    /// Whether each node gets a route to every other node's pods. For nodes on one link; without it the network must
    /// know the routes.
    pub auto_direct_node_routes: bool,
}

//! References to API objects, for provenance and messages.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The kinds that Axoneme reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Namespace,
    Pod,
    Node,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ClusterNetworkPolicy,
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
    CiliumCIDRGroup,
    CiliumIdentity,
    CiliumNode,
    CiliumNodeConfig,
    CiliumPodIPPool,
    AxonemeConfig,
    /// Not an API object: a verdict that the product itself decides (host traffic, kubelet probes).
    Builtin,
}

impl Kind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::CiliumCIDRGroup => "CiliumCIDRGroup",
            Self::CiliumIdentity => "CiliumIdentity",
            Self::CiliumNode => "CiliumNode",
            Self::CiliumNodeConfig => "CiliumNodeConfig",
            Self::CiliumPodIPPool => "CiliumPodIPPool",
            Self::AxonemeConfig => "AxonemeConfig",
            Self::Builtin => "builtin",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Namespace,
            Self::Pod,
            Self::Node,
            Self::Service,
            Self::EndpointSlice,
            Self::NetworkPolicy,
            Self::ClusterNetworkPolicy,
            Self::CiliumNetworkPolicy,
            Self::CiliumClusterwideNetworkPolicy,
            Self::CiliumCIDRGroup,
            Self::CiliumIdentity,
            Self::CiliumNode,
            Self::CiliumNodeConfig,
            Self::CiliumPodIPPool,
            Self::AxonemeConfig,
            Self::Builtin,
        ]
        .into_iter()
        .find(|k| k.as_str() == name)
    }
}

/// An object by kind, namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectRef {
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        // an empty string of its own would take as much of the allocator as a short one
        let namespace = if namespace.is_empty() { Arc::default() } else { namespace.into() };
        Self { kind, namespace, name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.as_str(), self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
        }
    }
}

/// One rule of one object: the provenance of a verdict. `path` is the field path (`spec.ingress[0].toPorts[1]`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    pub object: ObjectRef,
    pub path: Arc<str>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.path)
    }
}

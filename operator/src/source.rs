//! Where objects come from: the API server's watches, or a directory of manifests. Both say the same events.
//!
//! *Expected flow*: any number of `Apply` and `Delete`, in between one `Synced` a kind once all its objects are there.
//! *Guarantees*: an object that vanished while nobody looked is a `Delete` after all; a broken object or file is told,
//! and stops nothing else. *Caveats*: `Synced` comes once; a kind whose definition is absent is synced and empty.

pub mod directory;
pub mod kube;
mod slim;

use axoneme_model::{Kind, ObjectRef};
use serde_json::Value;

pub use slim::slim;

/// One change of the inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceEvent {
    /// The object is there, new or changed. It may hold any nonsense.
    Apply {
        kind: Kind,
        object: Value,
    },
    Delete(ObjectRef),
    /// All objects of the kind have been said.
    Synced(Kind),
    /// Something that is not even an object: a file that can't be read or parsed. `None`: it is well again.
    Broken {
        what: String,
        problem: Option<String>,
    },
}

/// The kinds that the operator reads.
pub const KINDS: [Kind; 15] = [
    Kind::AxonemeConfig,
    Kind::CiliumNodeConfig,
    Kind::Namespace,
    Kind::Node,
    Kind::CiliumNode,
    Kind::CiliumIdentity,
    Kind::CiliumPodIPPool,
    Kind::CiliumCIDRGroup,
    Kind::NetworkPolicy,
    Kind::CiliumNetworkPolicy,
    Kind::CiliumClusterwideNetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Pod,
];

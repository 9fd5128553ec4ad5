//! The API types that Axoneme serves, one kind a file, and their CustomResourceDefinitions.
//!
//! ```text
//! Rust type ──schemars──▶ schema ──schema::finish──▶ structural schema ──crdgen──▶ crds/generated/*.yaml
//!     ▲                      │
//!     └── serde ── object    └──▶ unknown fields of an object, by path ([`field`])
//! ```
//!
//! | group, version | kind | module |
//! |---|---|---|
//! | `cilium.io/v2` | CiliumNetworkPolicy | [`cilium_network_policy`], rules in [`policy`] |
//! | `cilium.io/v2` | CiliumClusterwideNetworkPolicy | [`cilium_clusterwide_network_policy`] |
//! | `cilium.io/v2` (and `v2alpha1`, deprecated) | CiliumCIDRGroup | [`cilium_cidr_group`] |
//! | `cilium.io/v2` | CiliumIdentity | [`cilium_identity`] |
//! | `cilium.io/v2` | CiliumNode | [`cilium_node`] |
//! | `cilium.io/v2` | CiliumNodeConfig | [`cilium_node_config`] |
//! | `cilium.io/v2alpha1` | CiliumPodIPPool | [`cilium_pod_ip_pool`] |
//! | `policy.networking.k8s.io/v1alpha2` | ClusterNetworkPolicy | [`cluster_network_policy`] |
//! | `axoneme.io/v1alpha1` | AxonemeConfig | [`axoneme_config`] |
//!
//! Invariants
//! - A type loses nothing: an object that is read and written back equals itself, for every field of the schema. A list
//!   that is absent and a list that is empty stay apart.
//! - `crds/generated` is what [`all_crds`] gives; a difference fails the tests.
//! - Doc comments of fields are what `kubectl explain` prints. They speak to the person who writes the manifest.
//!
//! What it does not do: it checks no meaning. A value that the schema admits may still be refused by `axoneme-intake`.

pub mod axoneme_config;
pub mod cilium_cidr_group;
pub mod cilium_clusterwide_network_policy;
pub mod cilium_identity;
pub mod cilium_network_policy;
pub mod cilium_node;
pub mod cilium_node_config;
pub mod cilium_pod_ip_pool;
pub mod cluster_network_policy;
pub mod condition;
pub mod definition;
pub mod field;
pub mod generated;
pub mod policy;
mod resource;
mod schema;
pub mod selector;

pub use axoneme_config::{AxonemeConfig, AxonemeConfigSpec, AxonemeConfigStatus};
pub use cilium_cidr_group::{CiliumCIDRGroup, CiliumCIDRGroupSpec};
pub use cilium_clusterwide_network_policy::CiliumClusterwideNetworkPolicy;
pub use cilium_identity::CiliumIdentity;
pub use cilium_network_policy::CiliumNetworkPolicy;
pub use cilium_node::{CiliumNode, CiliumNodeSpec, CiliumNodeStatus};
pub use cilium_node_config::{CiliumNodeConfig, CiliumNodeConfigSpec};
pub use cilium_pod_ip_pool::{CiliumPodIPPool, CiliumPodIPPoolSpec};
pub use cluster_network_policy::{ClusterNetworkPolicy, ClusterNetworkPolicySpec, ClusterNetworkPolicyStatus};
pub use condition::{Condition, ConditionStatus};
pub use definition::all_crds;
pub use field::{FieldError, parse, unknown_fields};
pub use selector::{EndpointSelector, LabelSelector, LabelSelectorRequirement, SelectorOperator};

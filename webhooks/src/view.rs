//! What is known of the cluster beside the object under review.

use std::{ops::ControlFlow, sync::Arc};

use axoneme_intake::{Options, PodIpPool};
use axoneme_model::{
    Cidr, Policy, Selector,
    world::{Namespace, Pod},
};

/// A read-only look at the cluster, as the operator has it.
///
/// *Guarantees*: answers come from memory. *Assumptions*: it may be behind the API server by a watch's delay; nothing is
/// refused for what it says. *Caveats*: before [`View::is_complete`], what it lacks may exist.
pub trait View: Send + Sync {
    /// How objects are read under the cluster's settings.
    fn options(&self) -> Options;

    /// Whether all objects have been read once.
    fn is_complete(&self) -> bool;

    /// The cluster's name, which selectors can read.
    fn cluster_name(&self) -> Arc<str>;

    /// Shows pods on the pod network with their namespaces, those of one namespace or all, until told to stop.
    fn pods(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Pod, Option<&Namespace>) -> ControlFlow<()>);

    /// Whether there is a CiliumCIDRGroup of that name.
    fn has_cidr_group(&self, name: &str) -> bool;

    /// Whether there is a CiliumCIDRGroup whose labels the selector matches.
    fn has_cidr_group_like(&self, selector: &Selector) -> bool;

    /// Whether there is a Service of that name.
    fn has_service(&self, namespace: &str, name: &str) -> bool;

    /// Shows policies as they are in force, in a fixed order until told to stop: those of the namespace and those without
    /// one, or all.
    fn policies(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Policy) -> ControlFlow<()>);

    /// All CiliumPodIPPools that can be read.
    fn pools(&self) -> Vec<Arc<PodIpPool>>;

    /// Blocks of a CiliumPodIPPool that nodes hold, each with its node.
    fn blocks(&self, pool: &str) -> Vec<(Arc<str>, Cidr)>;
}

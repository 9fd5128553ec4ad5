//! What the cluster says: the input of the compiler and of the oracle.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

use crate::{
    cidr::Cidr,
    labels::{LabelKey, Labels, names},
    object::ObjectRef,
    packed::{PackedMap, PackedSet},
    policy::Policy,
    protocol::Protocol,
    safe::HostSettings,
    selector::Selector,
};

/// Plain Kubernetes labels, without a source.
pub type PlainLabels = PackedMap<Arc<str>, Arc<str>>;

/// Ports by the name that containers give them.
pub type NamedPorts = PackedMap<Arc<str>, PackedSet<(Protocol, u16)>>;

/// All inputs. Every map is ordered: equal worlds compile to equal rows, whatever the order of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    pub config: ClusterConfig,
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Keyed by (namespace, name). Only pods that Axoneme networks (no hostNetwork).
    pub pods: BTreeMap<(Arc<str>, Arc<str>), Pod>,
    pub nodes: BTreeMap<Arc<str>, Node>,
    pub services: BTreeMap<(Arc<str>, Arc<str>), Service>,
    pub cidr_groups: BTreeMap<Arc<str>, CidrGroup>,
    pub policies: BTreeMap<ObjectRef, Policy>,
    /// Addresses of the API server as the `default/kubernetes` EndpointSlices give them.
    pub apiserver_addresses: BTreeSet<IpAddr>,
}

/// Cluster-wide settings that change verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Value of the derived label `io.cilium.k8s.policy.cluster`.
    pub cluster_name: Arc<str>,
    pub enforcement: Enforcement,
    /// Whether traffic from a pod's own node to the pod passes whatever the policy says (kubelet probes).
    pub always_allow_own_host: bool,
    pub dual_stack_world: bool,
    /// Policy is enforced on no pod, but on those that ask for it: only what it would deny is told.
    #[serde(default)]
    pub audit: bool,
    #[serde(default)]
    pub host: HostSettings,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            cluster_name: "default".into(),
            enforcement: Enforcement::Default,
            always_allow_own_host: true,
            dual_stack_world: false,
            audit: false,
            host: HostSettings::default(),
        }
    }
}

/// `policyEnforcementMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Enforcement {
    /// Endpoints that a policy selects are isolated, others are open.
    Default,
    /// All endpoints are isolated in both directions.
    Always,
    /// No policy is enforced.
    Never,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub labels: PlainLabels,
    pub annotations: PlainLabels,
}

impl Namespace {
    /// Its labels as its pods have them beside their own.
    #[must_use]
    pub fn given_labels(&self) -> Labels {
        let key = |name: &str| LabelKey::k8s(&format!("{}{name}", names::NAMESPACE_LABEL_PREFIX));
        self.labels.iter().map(|(k, v)| (key(k), v.clone())).collect()
    }
}

/// A pod on the pod network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub labels: PlainLabels,
    pub annotations: PlainLabels,
    pub service_account: Arc<str>,
    /// Empty until the scheduler binds it.
    pub node: Arc<str>,
    /// Empty until the node's agent has reported them.
    pub addresses: PackedSet<IpAddr>,
    /// Container ports with a name: name → set of (protocol, port).
    pub named_ports: NamedPorts,
}

impl Pod {
    /// The labels that selectors see: the pod's own, its namespace's, service account, cluster.
    #[must_use]
    pub fn security_labels(&self, namespace: Option<&Namespace>, cluster: &str) -> Labels {
        self.security_labels_within(&namespace.map(Namespace::given_labels).unwrap_or_default(), &cluster.into())
    }

    /// The same with what [`Namespace::given_labels`] says of its namespace, whose memory they share.
    #[must_use]
    pub fn security_labels_within(&self, given: &Labels, cluster: &Arc<str>) -> Labels {
        // a label that a namespace lacks is not the pod's to give: whoever may create pods would choose whom it is trusted by
        let own = self.labels.iter().filter(|(k, _)| !k.starts_with(names::NAMESPACE_LABEL_PREFIX));
        let own = own.map(|(k, v)| (LabelKey::k8s_shared(k.clone()), v.clone()));
        let of_namespace = given.shared().map(|(k, v)| (k.clone(), v.clone()));
        // the derived keys come last: a pod can't forge its namespace, account or cluster by a label of that name
        let [of_ns, account, of_cluster] = derived_keys();
        let derived =
            [(of_ns, self.namespace.clone()), (account, self.service_account.clone()), (of_cluster, cluster.clone())];
        own.chain(of_namespace).chain(derived).collect()
    }
}

/// Keys that every pod has; they share their names.
fn derived_keys() -> [LabelKey; 3] {
    static KEYS: LazyLock<[LabelKey; 3]> =
        LazyLock::new(|| [names::NAMESPACE, names::SERVICE_ACCOUNT, names::CLUSTER].map(LabelKey::k8s));
    KEYS.clone()
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: PlainLabels,
    /// Addresses on the underlay (InternalIP, ExternalIP), first of a family is the tunnel endpoint.
    pub addresses: Vec<IpAddr>,
    /// Addresses the node holds on its own pod-facing interfaces.
    pub internal_addresses: Vec<IpAddr>,
    /// Pod CIDRs that belong to the node.
    pub pod_cidrs: Vec<Cidr>,
}

impl Node {
    /// The labels that `nodeSelector` of a host policy sees: all of the Node object's, and `reserved:host`.
    #[must_use]
    pub fn host_labels(&self) -> Labels {
        let own = self.labels.iter().map(|(k, v)| (LabelKey::k8s_shared(k.clone()), v.clone()));
        own.chain([(LabelKey::reserved("host"), "".into())]).collect()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrGroup {
    pub labels: PlainLabels,
    pub cidrs: BTreeSet<Cidr>,
}

/// A Service with the endpoints that its slices list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub labels: PlainLabels,
    /// None: no selector, endpoints are managed by hand.
    pub selector: Option<PlainLabels>,
    /// Empty for headless services.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub endpoints: Vec<ServiceEndpoint>,
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    pub internal_local: bool,
    pub publish_not_ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty for a single unnamed port. EndpointSlice ports are matched by this name.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// One address of an EndpointSlice with its ports resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceEndpoint {
    pub address: IpAddr,
    /// Port name → (protocol, number), from the slice.
    pub ports: BTreeMap<Arc<str>, (Protocol, u16)>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Node that runs it, empty if unknown.
    pub node: Arc<str>,
    pub zone: Arc<str>,
}

/// A plain label map seen through a [`Selector`] whose keys have the source `k8s` or `any`.
#[must_use]
pub fn matches_plain(selector: &Selector, labels: &PlainLabels) -> bool {
    let l: Labels = labels.iter().map(|(k, v)| (LabelKey::k8s(k), v.clone())).collect();
    selector.matches(&l)
}

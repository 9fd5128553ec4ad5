//! CiliumPodIPPool (`cilium.io/v2alpha1`).

use std::sync::Arc;

use axoneme_model::{Cidr, Kind, LabelKey, Requirement, Selector, cidr::contains};
use serde_json::Value;

use crate::{
    address::prefix,
    error::ObjectErrors,
    field::Field,
    meta::annotations,
    read,
    selector::{Keys, requirements},
};

/// A pool of pod addresses, from which nodes take blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIpPool {
    pub name: Arc<str>,
    pub ipv4: Option<PoolFamily>,
    pub ipv6: Option<PoolFamily>,
    /// Whether pods get the first (network) address of a block.
    pub allow_first_address: bool,
    /// Whether pods get the last (broadcast) address of a block.
    pub allow_last_address: bool,
    /// Pods that take their addresses from here, by their own labels and `io.kubernetes.pod.namespace` and
    /// `io.kubernetes.pod.name`; see [`PodIpPool::selects`]. None selects no pod, unless `namespaces` does.
    pub pods: Option<Selector>,
    /// Namespaces whose pods take their addresses from here, by their plain labels.
    pub namespaces: Option<Selector>,
    /// Annotation `ipam.cilium.io/skip-masquerade: "true"`.
    pub skip_masquerade: bool,
}

/// The prefixes of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFamily {
    /// They do not overlap with each other.
    pub cidrs: Vec<Cidr>,
    /// Prefix length of the blocks that nodes take.
    pub mask_size: u8,
}

impl PodIpPool {
    /// Whether the pool's selectors choose a pod. A pool without selectors chooses none: it is used by name.
    #[must_use]
    pub fn selects(&self, pod: &axoneme_model::world::Pod, namespace: &axoneme_model::world::PlainLabels) -> bool {
        let pods = |selector: &Selector| {
            let mut labels = pod.labels.clone();
            labels.insert("io.kubernetes.pod.namespace".into(), pod.namespace.clone());
            labels.insert("io.kubernetes.pod.name".into(), pod.name.clone());
            axoneme_model::world::matches_plain(selector, &labels)
        };
        let namespaces = |selector: &Selector| axoneme_model::world::matches_plain(selector, namespace);
        (self.pods.is_some() || self.namespaces.is_some())
            && self.pods.as_ref().is_none_or(pods)
            && self.namespaces.as_ref().is_none_or(namespaces)
    }
}

/// Reads a CiliumPodIPPool.
pub fn pod_ip_pool(object: &Value) -> Result<PodIpPool, ObjectErrors> {
    read(object, Kind::CiliumPodIPPool, |root, meta| {
        root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
        let skip = annotations(root).get("ipam.cilium.io/skip-masquerade").is_some_and(|v| &**v == "true");
        let mut pool = PodIpPool {
            name: meta.object.name.clone(),
            ipv4: None,
            ipv6: None,
            allow_first_address: false,
            allow_last_address: false,
            pods: None,
            namespaces: None,
            skip_masquerade: skip,
        };
        if let Some(spec) = root.require("spec") {
            read_spec(&spec, &mut pool);
        }
        (pool, None)
    })
}

fn read_spec(spec: &Field<'_>, pool: &mut PodIpPool) {
    spec.only(&["ipv4", "ipv6", "allowFirstIP", "allowLastIP", "podSelector", "namespaceSelector"]);
    let flag = |name| spec.get(name).and_then(|f| f.bool()).unwrap_or(false);
    pool.allow_first_address = flag("allowFirstIP");
    pool.allow_last_address = flag("allowLastIP");
    pool.ipv4 = spec.get("ipv4").and_then(|f| family(&f, 32));
    pool.ipv6 = spec.get("ipv6").and_then(|f| family(&f, 128));
    if spec.raw().is_object() && !spec.has("ipv4") && !spec.has("ipv6") {
        spec.invalid("needs ipv4 or ipv6: a pool without prefixes has no address");
    }
    let selector = |name| spec.get(name).map(|s| plain_selector(&s));
    pool.pods = selector("podSelector");
    pool.namespaces = selector("namespaceSelector");
}

/// A selector on plain labels. Keys may carry the source prefix that Cilium's own labels have.
pub(crate) fn plain_selector(field: &Field<'_>) -> Selector {
    let plain = |r: Requirement| Requirement { key: LabelKey::k8s(&r.key.name), ..r };
    Selector::new(requirements(field, Keys::Object).into_vec().into_iter().map(plain).collect())
}

fn family(field: &Field<'_>, bits: u8) -> Option<PoolFamily> {
    field.only(&["cidrs", "maskSize"]);
    let mask_size = field.require("maskSize").and_then(|m| m.int(1..=bits));
    let cidrs = field.require("cidrs").map(|list| pool_cidrs(&list, bits, mask_size));
    Some(PoolFamily { cidrs: cidrs?, mask_size: mask_size? })
}

/// The prefixes of a pool of blocks: of one family (32 or 128 bits), no smaller than a block, none inside of another.
pub(crate) fn pool_cidrs(list: &Field<'_>, bits: u8, mask_size: Option<u8>) -> Vec<Cidr> {
    let mut out: Vec<Cidr> = Vec::new();
    if list.raw().is_array() && list.len() == 0 {
        list.invalid("needs at least one prefix");
    }
    for item in list.items() {
        let Some(cidr) = prefix(&item) else { continue };
        if cidr.is_ipv4() != (bits == 32) {
            item.invalid(if bits == 32 { "must be an IPv4 prefix" } else { "must be an IPv6 prefix" });
        } else if mask_size.is_some_and(|m| m < cidr.prefix()) {
            item.invalid("is smaller than one block of maskSize");
        } else if let Some(other) = out.iter().find(|o| contains(**o, cidr) || contains(cidr, **o)) {
            item.invalid(format!("overlaps with {other}"));
        } else {
            out.push(cidr);
        }
    }
    out
}

//! Node (`v1`).

use axoneme_model::{Cidr, Kind, world::Node};
use serde_json::Value;

use crate::{
    address::{ip, prefix},
    error::ObjectErrors,
    field::Field,
    meta::{annotations, labels},
    read,
};

/// Annotations in which a node's pod-facing addresses are kept.
const INTERNAL: [&str; 2] = ["network.cilium.io/ipv4-cilium-host", "network.cilium.io/ipv6-cilium-host"];

/// Reads a Node. Addresses are its InternalIPs, then its ExternalIPs, each in the order of the object, so that the first
/// of a family is the tunnel endpoint.
pub fn node(object: &Value) -> Result<Node, ObjectErrors> {
    read(object, Kind::Node, |root, meta| {
        let mut node = Node { name: meta.object.name.clone(), labels: labels(root), ..Node::default() };
        if let Some(status) = root.get("status").filter(Field::object)
            && let Some(list) = status.get("addresses")
        {
            for wanted in ["InternalIP", "ExternalIP"] {
                for item in list.items().filter(Field::object) {
                    if item.get("type").is_some_and(|t| t.raw() == wanted) {
                        node.addresses.extend(item.require("address").and_then(|a| ip(&a)));
                    }
                }
            }
        }
        if let Some(spec) = root.get("spec").filter(Field::object) {
            node.pod_cidrs = pod_cidrs(&spec);
        }
        let annotations = annotations(root);
        node.internal_addresses = INTERNAL.iter().filter_map(|name| annotations.get(*name)?.parse().ok()).collect();
        (node, None)
    })
}

fn pod_cidrs(spec: &Field<'_>) -> Vec<Cidr> {
    let list: Vec<Cidr> = spec.get("podCIDRs").iter().flat_map(Field::items).filter_map(|item| prefix(&item)).collect();
    if list.is_empty() {
        return spec.get("podCIDR").filter(|f| f.raw() != "").and_then(|f| prefix(&f)).into_iter().collect();
    }
    list
}

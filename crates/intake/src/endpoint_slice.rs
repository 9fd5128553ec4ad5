//! EndpointSlice (`discovery.k8s.io/v1`), and how the slices of a service become its endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use axoneme_model::{Kind, Protocol, world::ServiceEndpoint};
use serde_json::Value;

use crate::{address::ip, error::ObjectErrors, field::Field, meta::labels, pod::TRANSPORTS, read};

/// Label that names the service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A part of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Name of the service in the same namespace; none for a slice that belongs to no service.
    pub service: Option<Arc<str>>,
    /// Empty for slices of DNS names.
    pub endpoints: Vec<ServiceEndpoint>,
}

/// Port name → (protocol, number).
type SlicePorts = BTreeMap<Arc<str>, (Protocol, u16)>;

/// Reads an EndpointSlice.
pub fn endpoint_slice(object: &Value) -> Result<EndpointSlice, ObjectErrors> {
    read(object, Kind::EndpointSlice, |root, meta| {
        let mut slice = EndpointSlice {
            namespace: meta.object.namespace.clone(),
            name: meta.object.name.clone(),
            service: labels(root).get(SERVICE_NAME).cloned(),
            endpoints: Vec::new(),
        };
        let addresses = root
            .require("addressType")
            .and_then(|t| t.choice(&[("IPv4", true), ("IPv6", true), ("FQDN", false)]))
            .unwrap_or(false);
        let ports = root.get("ports").map(|list| ports(&list)).unwrap_or_default();
        if let Some(list) = root.get("endpoints").filter(|_| addresses) {
            for item in list.items().filter(Field::object) {
                endpoint(&item, &ports, &mut slice.endpoints);
            }
        }
        (slice, None)
    })
}

/// A port without a number means all ports, which no service can use; it is left out.
fn ports(list: &Field<'_>) -> SlicePorts {
    let mut out = SlicePorts::new();
    for item in list.items().filter(Field::object) {
        let name = item.get("name").map_or(Some(""), |n| n.str());
        let protocol = item.get("protocol").map_or(Some(Protocol::TCP), |p| p.choice(&TRANSPORTS));
        let number = item.get("port").and_then(|p| p.int(1..=u16::MAX));
        if let (Some(name), Some(protocol), Some(number)) = (name, protocol, number) {
            out.insert(name.into(), (protocol, number));
        }
    }
    out
}

/// Conditions that are not set: ready is true, serving is ready, terminating is false (API reference of
/// `EndpointConditions`). All addresses of one endpoint are interchangeable; consumers use the first.
fn endpoint(field: &Field<'_>, ports: &SlicePorts, out: &mut Vec<ServiceEndpoint>) {
    let conditions = field.get("conditions").filter(Field::object);
    let condition = |name| conditions.as_ref().and_then(|c| c.get(name).and_then(|f| f.bool()));
    let text = |name| field.get(name).and_then(|f| f.str()).unwrap_or_default();
    let ready = condition("ready").unwrap_or(true);
    let Some(list) = field.require("addresses") else { return };
    let addresses: Vec<IpAddr> = list.items().filter_map(|item| ip(&item)).collect();
    out.extend(addresses.into_iter().take(1).map(|address| ServiceEndpoint {
        address,
        ports: ports.clone(),
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        node: text("nodeName").into(),
        zone: text("zone").into(),
    }));
}

/// The endpoints of a service from all of its slices, sorted.
///
/// While a controller moves an endpoint from slice to slice, both may list it: it counts once, with its best condition,
/// so that the move is never an outage. Slices may also split the ports of an address between them; these come together,
/// unless the same port name has two numbers, which makes two endpoints.
pub fn merge<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Vec<ServiceEndpoint> {
    let mut by_address: BTreeMap<IpAddr, Vec<ServiceEndpoint>> = BTreeMap::new();
    // the order of events must not show in the result
    let all: BTreeSet<&ServiceEndpoint> = slices.into_iter().flat_map(|s| &s.endpoints).collect();
    for endpoint in all {
        let same = by_address.entry(endpoint.address).or_default();
        match same.iter_mut().find(|e| fits(&e.ports, &endpoint.ports)) {
            Some(known) => {
                known.ports.extend(endpoint.ports.iter().map(|(name, port)| (name.clone(), *port)));
                known.ready |= endpoint.ready;
                known.serving |= endpoint.serving;
                known.terminating &= endpoint.terminating;
                if known.node.is_empty() {
                    known.node = endpoint.node.clone();
                }
                if known.zone.is_empty() {
                    known.zone = endpoint.zone.clone();
                }
            }
            None => same.push(endpoint.clone()),
        }
    }
    by_address.into_values().flatten().collect()
}

/// Whether no port name has different numbers in the two.
fn fits(a: &SlicePorts, b: &SlicePorts) -> bool {
    b.iter().all(|(name, port)| a.get(name).is_none_or(|known| known == port))
}

/// Addresses of the API server: ready endpoints of the service `default/kubernetes`.
pub fn apiserver_addresses<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> BTreeSet<IpAddr> {
    slices
        .into_iter()
        .filter(|s| &*s.namespace == "default" && s.service.as_deref() == Some("kubernetes"))
        .flat_map(|s| &s.endpoints)
        .filter(|e| e.ready)
        .map(|e| e.address)
        .collect()
}

//! Service (`v1`).

use std::net::IpAddr;

use axoneme_model::{
    Kind, Protocol,
    world::{PlainLabels, Service, ServicePort},
};
use serde_json::Value;

use crate::{address::ip, error::ObjectErrors, field::Field, meta::labels, pod::TRANSPORTS, read};

/// Seconds that `sessionAffinity: ClientIP` lasts by default (3 hours), and at most (a day).
const AFFINITY_SECONDS: (u32, u32) = (10_800, 86_400);

/// Reads a Service without its endpoints, which its EndpointSlices list. An ExternalName service has no address, no
/// selector and no port.
pub fn service(object: &Value) -> Result<Service, ObjectErrors> {
    read(object, Kind::Service, |root, meta| {
        let mut service = Service {
            namespace: meta.object.namespace.clone(),
            name: meta.object.name.clone(),
            labels: labels(root),
            ..Service::default()
        };
        if let Some(spec) = root.require("spec").filter(Field::object) {
            read_spec(&spec, &mut service);
        }
        (service, None)
    })
}

fn read_spec(spec: &Field<'_>, service: &mut Service) {
    service.publish_not_ready = spec.get("publishNotReadyAddresses").and_then(|f| f.bool()).unwrap_or(false);
    service.internal_local = spec
        .get("internalTrafficPolicy")
        .and_then(|f| f.choice(&[("Cluster", false), ("Local", true)]))
        .unwrap_or(false);
    service.affinity_seconds = affinity(spec);
    if spec.get("type").is_some_and(|t| t.raw() == "ExternalName") {
        return;
    }
    service.cluster_ips = cluster_ips(spec);
    if let Some(selector) = spec.get("selector").filter(|s| s.len() > 0 || !s.raw().is_object()) {
        let pairs = selector.entries().filter_map(|(key, value)| Some((key.into(), value.str()?.into())));
        service.selector = Some(pairs.collect::<PlainLabels>());
    }
    service.ports = spec.get("ports").iter().flat_map(Field::items).filter_map(|item| port(&item)).collect();
}

/// `clusterIPs`, or `clusterIP` where only that is set. `None` (headless) and empty (not allocated yet) are no address.
fn cluster_ips(spec: &Field<'_>) -> Vec<IpAddr> {
    let is_address = |f: &Field<'_>| f.raw() != "None" && f.raw() != "";
    match spec.get("clusterIPs").filter(|list| list.len() > 0 || !list.raw().is_array()) {
        Some(list) => list.items().filter(is_address).filter_map(|item| ip(&item)).collect(),
        None => spec.get("clusterIP").filter(is_address).and_then(|f| ip(&f)).into_iter().collect(),
    }
}

fn affinity(spec: &Field<'_>) -> Option<u32> {
    let affinity = spec.get("sessionAffinity")?;
    if !affinity.choice(&[("None", false), ("ClientIP", true)])? {
        return None;
    }
    let (default, most) = AFFINITY_SECONDS;
    let config = spec.get("sessionAffinityConfig").filter(Field::object);
    let client = config.as_ref().and_then(|c| c.get("clientIP").filter(Field::object));
    let seconds = client.and_then(|c| c.get("timeoutSeconds")?.int(1..=most));
    Some(seconds.unwrap_or(default))
}

fn port(field: &Field<'_>) -> Option<ServicePort> {
    if !field.object() {
        return None;
    }
    let name = field.get("name").map_or(Some(""), |n| n.str());
    let protocol = field.get("protocol").map_or(Some(Protocol::TCP), |p| p.choice(&TRANSPORTS));
    let port = field.require("port").and_then(|p| p.int(1..=u16::MAX));
    Some(ServicePort { name: name?.into(), protocol: protocol?, port: port? })
}

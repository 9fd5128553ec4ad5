//! Services: what frontends lead to.

use std::net::IpAddr;

use axoneme_model::{
    rows::{Backend, Frontend, ServiceRow},
    world::{Service, ServiceEndpoint, ServicePort},
};

/// None for services without an address or without ports: nothing leads to them.
pub(crate) fn service_row(service: &Service) -> Option<ServiceRow> {
    let mut frontends: Vec<Frontend> = service
        .cluster_ips
        .iter()
        .flat_map(|address| service.ports.iter().map(|port| frontend(service, *address, port)))
        .collect();
    frontends.sort();
    frontends.dedup();
    (!frontends.is_empty()).then(|| ServiceRow {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        frontends,
        affinity_seconds: service.affinity_seconds,
        internal_local: service.internal_local,
    })
}

fn frontend(service: &Service, address: IpAddr, port: &ServicePort) -> Frontend {
    let mut backends: Vec<Backend> = service
        .endpoints
        .iter()
        .filter(|e| e.address.is_ipv4() == address.is_ipv4())
        .filter_map(|e| backend(e, port, service.publish_not_ready))
        .collect();
    backends.sort();
    // an address may stand in two slices while one is replaced by the other; the ready one sorts first
    backends.dedup_by(|b, a| (a.address, a.port) == (b.address, b.port));
    Frontend { address, protocol: port.protocol, port: port.port, backends }
}

/// Ready endpoints take new connections; terminating ones that still serve are kept as the last resort.
fn backend(endpoint: &ServiceEndpoint, port: &ServicePort, publish_not_ready: bool) -> Option<Backend> {
    let (protocol, number) = *endpoint.ports.get(&port.name)?;
    let ready = endpoint.ready || publish_not_ready;
    let last_resort = endpoint.serving && endpoint.terminating;
    (protocol == port.protocol && (ready || last_resort)).then(|| Backend {
        address: endpoint.address,
        port: number,
        terminating: !ready,
        node: endpoint.node.clone(),
    })
}

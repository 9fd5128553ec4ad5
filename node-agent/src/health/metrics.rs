//! What probes found, for Prometheus, on one page with the agent's own figures ([`crate::metrics`]). The first two have the names and labels of Cilium's, whose cost does not grow with
//! the cluster; the third names the nodes that can't be reached, as many as [`TARGETS`].
//!
//! | metric | labels |
//! |---|---|
//! | `cilium_node_health_connectivity_status` | `source_cluster`, `source_node_name`, `type` (node, endpoint), `status` (reachable, unreachable, unknown): nodes |
//! | `cilium_node_health_connectivity_latency_seconds` | `source_cluster`, `source_node_name`, `type`, `protocol` (icmp, http), `address_type` (ipv4, ipv6) |
//! | `axoneme_node_health_unreachable` | `source_cluster`, `source_node_name`, `type`, `target_node_name`: 1; `other`: how many more |

use std::{sync::atomic::AtomicI64, time::Duration};

use http::{Response, header};
use prometheus_client::{
    collector::Collector,
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{
    Lane, Place,
    answer::{Respond, not_found},
    mesh::{Mesh, Path},
};

/// Series of nodes that can't be reached, of each place.
pub const TARGETS: usize = 100;
/// Where Prometheus looks for the agent's metrics (Cilium's `prometheus-serve-addr`).
pub const METRICS_PORT: u16 = 9962;
const BUCKETS: [f64; 10] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

type Labels = Vec<(&'static str, String)>;
type Count = Family<Labels, Gauge<i64, AtomicI64>>;
type Latency = Family<Labels, Histogram, fn() -> Histogram>;

/// The figures of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    status: Count,
    latency: Latency,
    unreachable: Count,
    node: String,
}

impl Metrics {
    #[must_use]
    pub fn new(node: &str) -> Self {
        let mut registry = Registry::default();
        let (status, unreachable) = (Count::default(), Count::default());
        let latency = Latency::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "cilium_node_health_connectivity_status",
            "Nodes by whether they are reached at their addresses and at their health endpoints",
            status.clone(),
        );
        registry.register(
            "cilium_node_health_connectivity_latency_seconds",
            "Time until a probe was answered",
            latency.clone(),
        );
        registry.register(
            "axoneme_node_health_unreachable",
            "Nodes that are not reached, by name; other: how many more",
            unreachable.clone(),
        );
        Self { registry, status, latency, unreachable, node: node.to_owned() }
    }

    /// On the same page.
    pub fn add(&mut self, other: impl Collector) {
        self.registry.register_collector(Box::new(other));
    }

    fn labels<const N: usize>(&self, cluster: &str, more: [(&'static str, &str); N]) -> Labels {
        let source = [("source_cluster", cluster), ("source_node_name", &self.node)];
        source.into_iter().chain(more).map(|(name, value)| (name, value.to_owned())).collect()
    }

    /// A probe was answered.
    pub fn answered(&self, cluster: &str, lane: Lane, took: Duration) {
        let family = if lane.address.is_ipv4() { "ipv4" } else { "ipv6" };
        let labels = [("type", lane.place.name()), ("protocol", lane.protocol.name()), ("address_type", family)];
        self.latency.get_or_create(&self.labels(cluster, labels)).observe(took.as_secs_f64());
    }

    /// How all nodes are.
    pub fn count(&self, cluster: &str, mesh: &Mesh) {
        self.status.clear();
        self.unreachable.clear();
        for place in [Place::Node, Place::Endpoint] {
            for (path, status) in
                [(Path::Reachable, "reachable"), (Path::Unreachable, "unreachable"), (Path::Unknown, "unknown")]
            {
                let of = mesh.nodes().values().filter(|p| p.path(place) == Some(path)).count();
                let labels = self.labels(cluster, [("type", place.name()), ("status", status)]);
                self.status.get_or_create(&labels).set(i64::try_from(of).unwrap_or(i64::MAX));
            }
            let lost = mesh.nodes().iter().filter(|(_, p)| p.path(place) == Some(Path::Unreachable));
            for (n, (name, _)) in lost.enumerate() {
                let target = if n < TARGETS { name } else { "other" };
                let labels = self.labels(cluster, [("type", place.name()), ("target_node_name", target)]);
                self.unreachable.get_or_create(&labels).inc();
            }
        }
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // writing into a String can't fail
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Serves what `text` returns.
pub fn respond(text: impl Fn() -> String + Send + Sync + 'static) -> Respond {
    std::sync::Arc::new(move |request| {
        if request.uri().path() != "/metrics" {
            return not_found("there is /metrics");
        }
        let mut response = Response::new(text());
        let kind = header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use super::{
        super::{
            Peers, Protocol,
            mesh::{Effect, Input},
        },
        *,
    };

    #[test]
    fn series_do_not_grow_with_the_nodes_that_are_lost() {
        let lane = |place| Lane { place, protocol: Protocol::Http, address: "10.0.0.1".parse().unwrap() };
        let lanes = vec![lane(Place::Node), lane(Place::Endpoint)];
        let nodes = (0..TARGETS + 30).map(|n| (format!("n{n:03}").into(), lanes.clone())).collect();
        let (mut mesh, mut now) = (Mesh::default(), Instant::now());
        let peers = Peers { own: "n000".into(), interval: Duration::from_secs(1), nodes };
        let mut effects = mesh.step(now, Input::Peers(peers));
        for _ in 0..2000 {
            let Some(effect) = effects.pop() else {
                now = mesh.wake_at().unwrap();
                effects = mesh.step(now, Input::Tick);
                continue;
            };
            let Effect::Visit { node, ticket, lanes } = effect else { continue };
            let outcome = |l: Lane| if l.place == Place::Node { Ok(Duration::ZERO) } else { Err(String::new()) };
            let outcomes = lanes.into_iter().map(|l| (l, outcome(l))).collect();
            effects.extend(mesh.step(now, Input::Visited { node, ticket, outcomes }));
        }
        let metrics = Metrics::new("n000");
        metrics.answered("east", lane(Place::Endpoint), Duration::from_micros(300));
        for _ in 0..2 {
            metrics.count("east", &mesh);
        }
        let text = metrics.text();
        let source = r#"source_cluster="east",source_node_name="n000""#;
        let status = |kind: &str, status: &str, n: usize| {
            let line =
                format!(r#"cilium_node_health_connectivity_status{{{source},type="{kind}",status="{status}"}} {n}"#);
            assert!(text.contains(&line), "{line}\n{text}");
        };
        status("node", "reachable", TARGETS + 30);
        status("node", "unreachable", 0);
        status("endpoint", "unreachable", TARGETS + 30);
        let named: BTreeSet<&str> =
            text.lines().filter(|l| l.starts_with("axoneme_node_health_unreachable{")).collect();
        assert_eq!(named.len(), TARGETS + 1, "{text}");
        let other =
            format!(r#"axoneme_node_health_unreachable{{{source},type="endpoint",target_node_name="other"}} 30"#);
        assert!(named.contains(&*other), "{text}");
        let latency = format!(
            r#"cilium_node_health_connectivity_latency_seconds_bucket{{le="0.0005",{source},type="endpoint",protocol="http",address_type="ipv4"}} 1"#
        );
        assert!(text.contains(&latency), "{text}");
    }
}

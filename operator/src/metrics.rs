//! Figures for Prometheus.

use std::{sync::atomic::AtomicI64, time::Duration};

use axoneme_model::Kind;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::write::Outcome;

type Labels = Vec<(&'static str, String)>;

/// All figures of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    writes: Family<Labels, Counter>,
    reviews: Family<Labels, Counter>,
    review_seconds: Histogram,
    views: Family<Labels, Counter>,
    view_seconds: Histogram,
    pub revision: Gauge<i64, AtomicI64>,
    pub nodes_connected: Gauge<i64, AtomicI64>,
    pub identities_missing: Gauge<i64, AtomicI64>,
    pub objects_broken: Gauge<i64, AtomicI64>,
    pub leading: Gauge<i64, AtomicI64>,
    /// Microseconds that the last flush took, from inputs to rows.
    pub flush_microseconds: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("axoneme_operator");
        let writes = Family::<Labels, Counter>::default();
        registry.register("api_writes", "Writes to the API server by kind and outcome", writes.clone());
        let reviews = Family::<Labels, Counter>::default();
        registry.register("admission_reviews", "Admission reviews by kind and answer", reviews.clone());
        let review_seconds = Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0]);
        registry.register("admission_seconds", "Time from an admission review to its answer", review_seconds.clone());
        let views = Family::<Labels, Counter>::default();
        registry.register("view_requests", "Requests to the aggregated API by resource, verb and code", views.clone());
        let view_seconds = Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0]);
        registry.register("view_seconds", "Time until the answer of a view begins", view_seconds.clone());
        let mut gauge = |name: &str, help: &str| {
            let g = Gauge::<i64, AtomicI64>::default();
            registry.register(name, help, g.clone());
            g
        };
        let revision = gauge("revision", "Newest revision of the rows");
        let nodes_connected = gauge("nodes_connected", "Nodes with a stream to this replica");
        let identities_missing = gauge("identities_missing", "Label sets of pods without a usable number");
        let objects_broken = gauge("objects_broken", "Objects that can't be used as they are");
        let leading = gauge("leading", "Whether this replica writes");
        let flush_microseconds = gauge("flush_microseconds", "Time from inputs to rows, of the last change");
        Self {
            registry,
            writes,
            reviews,
            review_seconds,
            views,
            view_seconds,
            revision,
            nodes_connected,
            identities_missing,
            objects_broken,
            leading,
            flush_microseconds,
        }
    }
}

impl Metrics {
    /// Counts a write.
    pub fn wrote(&self, kind: Kind, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Done(_) => "done",
            Outcome::Conflict => "conflict",
            Outcome::Failed(_) => "failed",
        };
        self.writes.get_or_create(&vec![("kind", kind.as_str().to_owned()), ("outcome", outcome.to_owned())]).inc();
    }

    /// Counts an admission review. Kinds that no user's object has here are one.
    pub fn reviewed(&self, kind: &str, allowed: bool, took: Duration) {
        let kind = Kind::from_name(kind).map_or("other", Kind::as_str).to_owned();
        let answer = if allowed { "allowed" } else { "denied" }.to_owned();
        self.reviews.get_or_create(&vec![("kind", kind), ("answer", answer)]).inc();
        self.review_seconds.observe(took.as_secs_f64());
    }

    /// Counts a request to the aggregated API.
    pub fn viewed(&self, resource: &str, verb: &str, code: u16, took: Duration) {
        let labels = [("resource", resource.to_owned()), ("verb", verb.to_owned()), ("code", code.to_string())];
        self.views.get_or_create(&labels.to_vec()).inc();
        self.view_seconds.observe(took.as_secs_f64());
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

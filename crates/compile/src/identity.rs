//! Which labels make an identity.

use std::sync::Arc;

use axoneme_model::{LabelKey, Labels, Selector, Source, labels::names};

/// Whether pods can carry a label that this key of a selector means. Pods have labels from Kubernetes only.
pub(crate) fn concerns_pods(key: &LabelKey) -> bool {
    matches!(key.source, Source::K8s | Source::Any)
}

/// The label names that a selector reads of pods.
pub(crate) fn names_read(selector: &Selector) -> impl Iterator<Item = &Arc<str>> {
    selector.keys().filter(|k| concerns_pods(k)).map(|k| &k.name)
}

/// The labels of a pod's identity: its namespace, service account and cluster, and whatever some rule reads.
pub(crate) fn identity_labels(security: &Labels, read: impl Fn(&str) -> bool) -> Labels {
    security.retain(|k| always(&k.name) || read(&k.name))
}

pub(crate) fn always(name: &str) -> bool {
    [names::NAMESPACE, names::SERVICE_ACCOUNT, names::CLUSTER].contains(&name)
}

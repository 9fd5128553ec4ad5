//! Label selectors of all kinds → [`Selector`].

use std::{collections::BTreeSet, sync::Arc};

use axoneme_model::{
    LabelKey, Operator, Requirement, Selector, Source,
    labels::names::{NAMESPACE, NAMESPACE_LABEL_PREFIX},
};

use crate::field::{Field, nearest};

/// How keys of a selector are spelled and what they mean.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    /// Labels of a pod in a Kubernetes kind.
    Pod,
    /// Labels of the pod's namespace in a Kubernetes kind.
    Namespace,
    /// Labels of an object other than a pod (node, service, CIDR group) in a `cilium.io` kind, where a source before a
    /// colon may stand.
    Object,
    /// `source:name` of a `cilium.io` endpoint selector.
    Endpoint,
}

/// A selector's requirements, `matchLabels` and `matchExpressions` apart: Cilium treats a namespace in `matchLabels` of a
/// policy's own selector differently from one in `matchExpressions`.
#[derive(Debug, Default)]
pub(crate) struct Requirements {
    pub(crate) labels: Vec<Requirement>,
    pub(crate) expressions: Vec<Requirement>,
}

impl Requirements {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Requirement> {
        self.labels.iter().chain(&self.expressions)
    }

    /// Whether the selector speaks of the pod's namespace by name.
    pub(crate) fn names_namespace(&self) -> bool {
        self.iter().any(|r| is_any_or_k8s(&r.key) && &*r.key.name == NAMESPACE)
    }

    /// Whether the selector speaks of the labels of the pod's namespace.
    pub(crate) fn names_namespace_labels(&self) -> bool {
        self.iter().any(|r| is_any_or_k8s(&r.key) && r.key.name.starts_with(NAMESPACE_LABEL_PREFIX))
    }

    pub(crate) fn names_reserved(&self) -> bool {
        self.iter().any(|r| r.key.source == Source::Reserved)
    }

    pub(crate) fn into_vec(self) -> Vec<Requirement> {
        let mut all = self.labels;
        all.extend(self.expressions);
        all
    }

    pub(crate) fn into_selector(self) -> Selector {
        Selector::new(self.into_vec())
    }
}

fn is_any_or_k8s(key: &LabelKey) -> bool {
    matches!(key.source, Source::Any | Source::K8s)
}

pub(crate) fn namespace_is(namespace: &str) -> Requirement {
    Requirement::equals(LabelKey::k8s(NAMESPACE), namespace)
}

/// Holds for every pod and for nothing else: only pods have a namespace. Keeps a selector that is empty, or that only
/// excludes, from matching hosts and the world.
pub(crate) fn is_pod() -> Requirement {
    Requirement::exists(LabelKey::k8s(NAMESPACE))
}

/// Reads a `metav1.LabelSelector`.
pub(crate) fn requirements(field: &Field<'_>, keys: Keys) -> Requirements {
    let mut out = Requirements::default();
    field.only(&["matchLabels", "matchExpressions"]);
    if let Some(labels) = field.get("matchLabels") {
        for (name, value) in labels.entries() {
            let key = label_key(&value, name, keys);
            let text = value.str().filter(|text| value_is_good(&value, text));
            if let (Some(key), Some(text)) = (key, text) {
                out.labels.push(Requirement::equals(key, text));
            }
        }
    }
    if let Some(expressions) = field.get("matchExpressions") {
        out.expressions = expressions.items().filter_map(|item| expression(&item, keys)).collect();
    }
    out
}

fn expression(field: &Field<'_>, keys: Keys) -> Option<Requirement> {
    field.only(&["key", "operator", "values"]);
    let key = field.require("key").and_then(|k| label_key(&k, k.str()?, keys));
    let operator = field.require("operator").and_then(|o| {
        o.choice(&[
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ])
    });
    let mut values: BTreeSet<Arc<str>> = BTreeSet::new();
    if let Some(list) = field.get("values") {
        for item in list.items() {
            values.extend(item.str().filter(|text| value_is_good(&item, text)).map(Arc::from));
        }
    }
    let (key, operator) = (key?, operator?);
    let given = field.get("values").map_or(0, |v| v.len());
    match operator {
        Operator::In | Operator::NotIn if given == 0 => field.invalid("In and NotIn need at least one value"),
        Operator::Exists | Operator::DoesNotExist if given > 0 => {
            field.invalid("Exists and DoesNotExist take no values");
        }
        _ => {}
    }
    Some(Requirement { key, operator, values: values.into() })
}

/// The key, or none with an error at `field`.
fn label_key(field: &Field<'_>, text: &str, keys: Keys) -> Option<LabelKey> {
    let key = match keys {
        Keys::Pod => LabelKey::k8s(text),
        Keys::Namespace => LabelKey::k8s(&format!("{NAMESPACE_LABEL_PREFIX}{text}")),
        Keys::Object => LabelKey::k8s(match text.split_once(':') {
            Some(("any" | "k8s" | "node" | "cidrgroup", name)) => name,
            _ => text,
        }),
        Keys::Endpoint => return endpoint_key(field, text),
    };
    key_is_good(field, &key.name).then_some(key)
}

/// `source:name`, `name` (any source), and the short forms `$host` and `reserved.host`.
///
/// Source: Cilium, `pkg/labels` ParseSource.
fn endpoint_key(field: &Field<'_>, text: &str) -> Option<LabelKey> {
    let (source, name) = match (text.strip_prefix('$'), text.split_once(':'), text.strip_prefix("reserved.")) {
        (Some(name), _, _) | (None, None, Some(name)) => ("reserved", name),
        (None, Some((source, name)), _) => (source, name),
        (None, None, None) => ("any", text),
    };
    let source = match source {
        "any" | "" => Source::Any,
        "k8s" => Source::K8s,
        "reserved" => return reserved_key(field, name),
        "cidr" | "cidrgroup" | "fqdn" => {
            field.unsupported(format!(
                "selecting endpoints by labels of source {source} is not enforced; use CIDR or toFQDNs fields"
            ));
            return None;
        }
        other => Source::Other(other.into()),
    };
    key_is_good(field, name).then(|| LabelKey { source, name: name.into() })
}

/// Names behind `reserved:`. `none` exists to be selected and is nobody.
const RESERVED: [&str; 11] = [
    "host",
    "world",
    "world-ipv4",
    "world-ipv6",
    "unmanaged",
    "health",
    "init",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "none",
];

fn reserved_key(field: &Field<'_>, name: &str) -> Option<LabelKey> {
    if RESERVED.contains(&name) {
        return Some(LabelKey::reserved(name));
    }
    let hint = nearest(name, RESERVED.into_iter()).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
    field.invalid(format!("no such reserved label {name}; there are {}{hint}", RESERVED.join(", ")));
    None
}

/// The grammar of label keys: an optional DNS prefix and a slash, then 1 to 63 characters. The prefix may be longer than
/// upstream allows, because derived keys carry a prefix of their own.
fn key_is_good(field: &Field<'_>, name: &str) -> bool {
    let (prefix, local) = name.rsplit_once('/').unwrap_or(("", name));
    // a derived key puts its prefix in front of a local name without a slash
    let local = local.strip_prefix(NAMESPACE_LABEL_PREFIX).unwrap_or(local);
    let good = !local.is_empty()
        && local.len() <= 63
        && is_label_text(local)
        && prefix.len() <= 253 + NAMESPACE_LABEL_PREFIX.len()
        && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if !good {
        field.invalid(format!(
            "{name:?} is no label key: an optional DNS prefix and a slash, then 1 to 63 letters, digits, -, _ or ."
        ));
    }
    good
}

fn value_is_good(field: &Field<'_>, value: &str) -> bool {
    let good = value.is_empty() || (value.len() <= 63 && is_label_text(value));
    if !good {
        field.invalid("is no label value: at most 63 letters, digits, -, _ or ., with a letter or digit at both ends");
    }
    good
}

fn is_label_text(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|b| b.is_ascii_alphanumeric());
    ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

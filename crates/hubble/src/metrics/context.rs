//! Labels that say whose flow it was.

use super::Labels;
use crate::pb::flow::{self as pb, TrafficDirection};

/// How one end is named; of several the first that it has a name in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identifier {
    Identity,
    Namespace,
    Pod,
    PodName,
    Dns,
    Ip,
    ReservedIdentity,
    Workload,
    WorkloadName,
    App,
}

impl Identifier {
    const NAMES: [(&'static str, Self); 10] = [
        ("identity", Self::Identity),
        ("namespace", Self::Namespace),
        ("pod", Self::Pod),
        ("pod-name", Self::PodName),
        ("dns", Self::Dns),
        ("ip", Self::Ip),
        ("reserved-identity", Self::ReservedIdentity),
        ("workload", Self::Workload),
        ("workload-name", Self::WorkloadName),
        ("app", Self::App),
    ];

    fn of(self, end: &End<'_>) -> String {
        let e = end.endpoint;
        let workload = || e.workloads.first().map(|w| w.name.clone()).unwrap_or_default();
        let named = |name: String| match (&*e.namespace, name) {
            ("", name) => name,
            (_, name) if name.is_empty() => name,
            (namespace, name) => format!("{namespace}/{name}"),
        };
        match self {
            Self::Identity => e.labels.join(","),
            Self::Namespace => e.namespace.clone(),
            Self::Pod => named(e.pod_name.clone()),
            Self::PodName => e.pod_name.clone(),
            Self::Dns => end.names.join(","),
            Self::Ip => end.ip.to_owned(),
            Self::ReservedIdentity => reserved(&e.labels),
            Self::Workload => named(workload()),
            Self::WorkloadName => workload(),
            Self::App => app(&e.labels),
        }
    }
}

/// `reserved:kube-apiserver` if it is that, else the first of the reserved labels.
fn reserved(labels: &[String]) -> String {
    let found = labels.iter().find(|l| *l == "reserved:kube-apiserver");
    found.or_else(|| labels.iter().find(|l| l.starts_with("reserved:"))).cloned().unwrap_or_default()
}

fn app(labels: &[String]) -> String {
    const KEYS: [&str; 3] = ["k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:app="];
    let value = |l: &String| KEYS.iter().find_map(|k| l.strip_prefix(k)).filter(|v| !v.is_empty()).map(str::to_owned);
    labels.iter().find_map(value).unwrap_or_default()
}

struct End<'a> {
    endpoint: &'a pb::Endpoint,
    ip: &'a str,
    names: &'a [String],
}

/// Identifiers of one end: for all flows, or for those of a direction.
#[derive(Clone, Debug, Default)]
struct Ends {
    any: Vec<Identifier>,
    egress: Option<Vec<Identifier>>,
    ingress: Option<Vec<Identifier>>,
}

impl Ends {
    fn is_given(&self) -> bool {
        !self.any.is_empty() || self.egress.is_some() || self.ingress.is_some()
    }

    fn of(&self, flow: &pb::Flow, end: &End<'_>) -> String {
        let identifiers = match flow.traffic_direction() {
            TrafficDirection::Egress => self.egress.as_ref().unwrap_or(&self.any),
            TrafficDirection::Ingress => self.ingress.as_ref().unwrap_or(&self.any),
            TrafficDirection::Unknown => &self.any,
        };
        identifiers.iter().map(|i| i.of(end)).find(|v| !v.is_empty()).unwrap_or_default()
    }

    fn names_pods(&self) -> bool {
        let lists = [Some(&self.any), self.egress.as_ref(), self.ingress.as_ref()];
        lists.into_iter().flatten().any(|l| l.contains(&Identifier::Pod))
    }
}

const LABELS: [&str; 13] = [
    "source_ip",
    "source_pod",
    "source_namespace",
    "source_workload",
    "source_workload_kind",
    "source_app",
    "destination_ip",
    "destination_pod",
    "destination_namespace",
    "destination_workload",
    "destination_workload_kind",
    "destination_app",
    "traffic_direction",
];

/// Options of a set.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    source: Ends,
    destination: Ends,
    labels: Vec<&'static str>,
}

impl Context {
    /// One option, in lower case.
    pub(super) fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "sourcecontext" => self.source.any = identifiers(value)?,
            "sourceegresscontext" => self.source.egress = Some(identifiers(value)?),
            "sourceingresscontext" => self.source.ingress = Some(identifiers(value)?),
            "destinationcontext" => self.destination.any = identifiers(value)?,
            "destinationegresscontext" => self.destination.egress = Some(identifiers(value)?),
            "destinationingresscontext" => self.destination.ingress = Some(identifiers(value)?),
            "labelscontext" => {
                let given: Vec<&str> = value.split(',').collect();
                if let Some(bad) = given.iter().find(|l| !LABELS.contains(l)) {
                    return Err(format!("there is no label {bad:?}; use some of {}", LABELS.join(", ")));
                }
                self.labels = LABELS.into_iter().filter(|l| given.contains(l)).collect();
            }
            _ => return Err("there is no such option".to_owned()),
        }
        Ok(())
    }

    pub(super) fn labels(&self, flow: &pb::Flow) -> Labels {
        let (nobody, no_ip) = (pb::Endpoint::default(), pb::Ip::default());
        let ip = flow.ip.as_ref().unwrap_or(&no_ip);
        let (source, destination) = (flow.source.as_ref(), flow.destination.as_ref());
        let source = End { endpoint: source.unwrap_or(&nobody), ip: &ip.source, names: &flow.source_names };
        let destination =
            End { endpoint: destination.unwrap_or(&nobody), ip: &ip.destination, names: &flow.destination_names };
        let value = |label: &&'static str| (*label, label_value(label, flow, &source, &destination));
        let mut all: Labels = self.labels.iter().map(value).collect();
        if self.source.is_given() {
            all.push(("source", self.source.of(flow, &source)));
        }
        if self.destination.is_given() {
            all.push(("destination", self.destination.of(flow, &destination)));
        }
        all
    }

    /// Whether these labels name the pod.
    pub(super) fn is_of(&self, labels: &Labels, namespace: &str, pod: &str) -> bool {
        let has = |name: &str, value: &str| labels.iter().any(|l| l.0 == name && l.1 == value);
        let both = format!("{namespace}/{pod}");
        self.source.names_pods() && has("source", &both)
            || self.destination.names_pods() && has("destination", &both)
            || has("source_pod", pod) && has("source_namespace", namespace)
            || has("destination_pod", pod) && has("destination_namespace", namespace)
    }
}

fn identifiers(value: &str) -> Result<Vec<Identifier>, String> {
    let one = |v: &str| {
        let known = Identifier::NAMES.iter().find(|n| n.0.eq_ignore_ascii_case(v)).map(|n| n.1);
        known.ok_or_else(|| format!("there is no {v:?}; use some of {}", Identifier::NAMES.map(|n| n.0).join(", ")))
    };
    value.split('|').map(one).collect()
}

fn label_value(label: &str, flow: &pb::Flow, source: &End<'_>, destination: &End<'_>) -> String {
    if label == "traffic_direction" {
        return match flow.traffic_direction() {
            TrafficDirection::Unknown => "unknown".to_owned(),
            known => known.as_str_name().to_lowercase(),
        };
    }
    let (end, what) = match label.split_once('_') {
        Some(("source", what)) => (source, what),
        Some((_, what)) => (destination, what),
        None => return String::new(),
    };
    let workload = |pick: fn(&pb::Workload) -> &String| end.endpoint.workloads.first().map(pick).cloned();
    match what {
        "ip" => end.ip.to_owned(),
        "pod" => end.endpoint.pod_name.clone(),
        "namespace" => end.endpoint.namespace.clone(),
        "workload" => workload(|w| &w.name).unwrap_or_default(),
        "workload_kind" => workload(|w| &w.kind).unwrap_or_default(),
        _ => app(&end.endpoint.labels),
    }
}

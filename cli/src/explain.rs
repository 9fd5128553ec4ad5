//! `axoneme explain`: may one pod talk to another, and which rules decide, from manifests alone.
//!
//! The judge is `axoneme_model::verdict`, the reference that the compiler and the datapath are held against.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axoneme_intake::{EndpointSlice, Options, Parsed};
use axoneme_model::{
    Protocol, RuleRef, World,
    verdict::{Decision, Holder, Reason, Side, Traffic, holder, verdict},
    world::{Namespace, Node, Pod},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    args,
    failure::Failure,
    lint,
    manifests::{self, Document},
    output::{Output, Tone},
    progress::Progress,
};

/// Node on which pods stand that the manifests bind to none.
const SOMEWHERE: &str = "(any node)";

#[derive(Debug, Serialize)]
struct Answer {
    source: String,
    destination: String,
    protocol: String,
    port: u16,
    allow: bool,
    sides: Vec<SideAnswer>,
    /// What is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    caveats: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SideAnswer {
    direction: &'static str,
    pod: String,
    allow: bool,
    reason: &'static str,
    rules: Vec<String>,
}

pub fn run(args: &args::Explain, out: &mut Output) -> Result<(), Failure> {
    let progress = Progress::start("reading manifests");
    let documents = manifests::load(&args.files, &progress)?;
    let (world, caveats) = build(&documents);
    let (protocol, port) = port(&args.port)?;
    let sources = end(&world, "SOURCE", &args.source)?;
    let destinations = end(&world, "DESTINATION", &args.destination)?;
    let mut pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (*s, *d)));
    let Some((source, destination)) = pairs.find(|(s, d)| s.is_ipv4() == d.is_ipv4()) else {
        let what = "they are of different address families: nothing can pass between them";
        return Err(Failure::Usage(format!("{} and {}: {what}", args.source, args.destination)));
    };
    let decision = verdict(&world, &Traffic { source, destination, protocol, port });
    drop(progress);
    let answer = Answer {
        source: args.source.clone(),
        destination: args.destination.clone(),
        protocol: protocol.to_string(),
        port,
        allow: decision.allow,
        sides: sides(&world, (source, destination), &decision),
        caveats,
    };
    out.document(args.output, &answer, table)?;
    if answer.allow { Ok(()) } else { Err(Failure::Unwell) }
}

fn sides(world: &World, ends: (IpAddr, IpAddr), decision: &Decision) -> Vec<SideAnswer> {
    let side = |direction, address, side: &Option<Side>| {
        let Holder::Pod(pod) = holder(world, address) else { return None };
        let side = side.as_ref()?;
        Some(SideAnswer {
            direction,
            pod: format!("{}/{}", pod.namespace, pod.name),
            allow: side.allow,
            reason: reason(side.reason),
            rules: side.rules.iter().map(RuleRef::to_string).collect(),
        })
    };
    [side("egress", ends.0, &decision.egress), side("ingress", ends.1, &decision.ingress)]
        .into_iter()
        .flatten()
        .collect()
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::SamePod => "a pod may always talk to itself",
        Reason::NotEnforced => "policyEnforcementMode is never",
        Reason::OwnHost => "the pod's own node may always reach it",
        Reason::Admin => "a rule of the admin tier decides",
        Reason::Deny => "a deny rule matches",
        Reason::Allow => "an allow rule matches",
        Reason::Isolated => "the pod is isolated and no rule allows it",
        Reason::Baseline => "a rule of the baseline tier decides",
        Reason::Open => "no policy speaks of it",
    }
}

fn table(out: &mut Output, answer: &Answer) -> Result<(), Failure> {
    let word = |out: &Output, allow| {
        if allow { out.tone(Tone::Good, "allowed") } else { out.tone(Tone::Bad, "denied") }
    };
    let verdict = word(out, answer.allow);
    let Answer { source, destination, protocol, port, .. } = answer;
    out.line(&format!("{source} -> {destination} {protocol} {port}: {verdict}"))?;
    for side in &answer.sides {
        let verdict = word(out, side.allow);
        out.line(&format!("  {} of {}: {verdict}: {}", side.direction, side.pod, side.reason))?;
        for rule in &side.rules {
            out.line(&format!("    {rule}"))?;
        }
    }
    if answer.sides.is_empty() {
        out.line("  neither end is a pod of these manifests: policy has no say")?;
    }
    for caveat in &answer.caveats {
        out.line(&format!("  {} {caveat}", out.tone(Tone::Attention, "!")))?;
    }
    Ok(())
}

/// `80`, `53/udp`, `8/icmp`.
fn port(text: &str) -> Result<(Protocol, u16), Failure> {
    let (number, name) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match name.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        "icmp" | "icmpv4" => Protocol::ICMP,
        "icmpv6" => Protocol::ICMPV6,
        _ => {
            let what = "no such protocol; use tcp, udp, sctp, icmp or icmpv6 (with the ICMP type as port)";
            return Err(Failure::Usage(format!("PORT: {text:?}: {what}")));
        }
    };
    let number =
        number.parse().map_err(|_| Failure::Usage(format!("PORT: {text:?}: not a port; use 80, 53/udp or 8/icmp")))?;
    Ok((protocol, number))
}

/// The addresses of an end: as given, or those of the pod.
fn end(world: &World, field: &str, text: &str) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let exact = world.pods.get(&(Arc::from(namespace), Arc::from(name)));
    exact.map(|p| p.addresses.iter().copied().collect()).ok_or_else(|| {
        let known: Vec<String> = world.pods.keys().take(20).map(|(ns, name)| format!("{ns}/{name}")).collect();
        let more = if world.pods.len() > known.len() { ", …" } else { "" };
        let choices = if known.is_empty() { "the manifests have no pods".into() } else { known.join(", ") + more };
        Failure::Usage(format!(
            "{field}: {text:?}: neither an address nor a pod of the manifests; there are: {choices}"
        ))
    })
}

/// The world that the manifests describe, and what of them could not be taken.
fn build(documents: &[Document]) -> (World, Vec<String>) {
    let options = lint::options(documents);
    let mut builder = Builder { options, ..Builder::default() };
    for document in documents {
        match &document.object {
            Ok(object) => builder.add(object, &format!("{}:{}", document.file, document.line)),
            Err(_) => builder.caveats.push(format!("{}:{} is not YAML and left out", document.file, document.line)),
        }
    }
    builder.finish()
}

#[derive(Debug, Default)]
struct Builder {
    options: Options,
    world: World,
    slices: BTreeMap<(Arc<str>, Arc<str>), Vec<EndpointSlice>>,
    caveats: Vec<String>,
}

impl Builder {
    fn add(&mut self, object: &Value, place: &str) {
        let template = pod_of_workload(object);
        match axoneme_intake::parse_with(template.as_ref().unwrap_or(object), &self.options) {
            Ok(parsed) => self.take(parsed),
            Err(errors) => {
                // as the operator does: the subjects are in default-deny, no rule lets anything pass
                let name = errors.object.as_ref().map_or_else(|| place.to_owned(), ToString::to_string);
                match errors.fail_closed {
                    Some(policy) => {
                        self.caveats.push(format!("{name} has errors (axoneme lint) and only isolates its subjects"));
                        self.world.policies.insert(policy.object.clone(), *policy);
                    }
                    None => self.caveats.push(format!("{name} has errors (axoneme lint) and is left out")),
                }
            }
        }
    }

    fn take(&mut self, parsed: Parsed) {
        let world = &mut self.world;
        match parsed {
            Parsed::Namespace(name, namespace) => {
                world.namespaces.insert(name, namespace);
            }
            Parsed::Pod(key, pod) => {
                if let Some(pod) = pod {
                    world.pods.insert(key, *pod);
                }
            }
            Parsed::Node(node) => {
                world.nodes.insert(node.name.clone(), *node);
            }
            Parsed::Service(service) => {
                world.services.insert((service.namespace.clone(), service.name.clone()), *service);
            }
            Parsed::EndpointSlice(slice) => {
                if let Some(service) = slice.service.clone() {
                    self.slices.entry((slice.namespace.clone(), service)).or_default().push(slice);
                }
            }
            Parsed::Policy(policy) => {
                world.policies.insert(policy.object.clone(), policy);
            }
            Parsed::CidrGroup(name, group) => {
                world.cidr_groups.insert(name, group);
            }
            Parsed::Config(settings) => world.config = settings.cluster,
            Parsed::Identity(..) | Parsed::CiliumNode(_) | Parsed::PodIpPool(_) | Parsed::Ignored => {}
        }
    }

    /// Fills in what a cluster would: namespaces, a node, addresses of pods, endpoints of services.
    fn finish(self) -> (World, Vec<String>) {
        let Self { mut world, slices, caveats, .. } = self;
        world.nodes.entry(SOMEWHERE.into()).or_insert_with(|| Node { name: SOMEWHERE.into(), ..Node::default() });
        let namespaces: BTreeSet<Arc<str>> = world.pods.keys().map(|k| k.0.clone()).collect();
        for name in namespaces {
            world.namespaces.entry(name.clone()).or_insert_with(|| {
                // what the API server puts on every namespace (KEP-2161)
                let labels = BTreeMap::from([("kubernetes.io/metadata.name".into(), name)]);
                Namespace { labels, ..Namespace::default() }
            });
        }
        for (n, pod) in (0..).zip(world.pods.values_mut()) {
            settle(pod, n);
        }
        for (key, service) in &mut world.services {
            service.endpoints = axoneme_intake::merge(slices.get(key).into_iter().flatten());
        }
        (world, caveats)
    }
}

/// What the scheduler and the node would have given the pod.
fn settle(pod: &mut Pod, n: u32) {
    if pod.uid.is_empty() {
        pod.uid = format!("{}/{}", pod.namespace, pod.name).into();
    }
    if pod.node.is_empty() {
        pod.node = SOMEWHERE.into();
    }
    if pod.addresses.is_empty() {
        // 240.0.0.0/4 is reserved (RFC 1112) and 100::/64 discards (RFC 6666): no real policy names them by chance
        pod.addresses.insert(Ipv4Addr::from_bits(0xf000_0000 | (n + 1)).into());
        pod.addresses.insert(Ipv6Addr::from_bits((0x100 << 112) | u128::from(n + 1)).into());
    }
}

/// A pod as the workload would make it, under the workload's name.
fn pod_of_workload(object: &Value) -> Option<Value> {
    let template = match object.get("kind")?.as_str()? {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => object.pointer("/spec/template")?,
        "CronJob" => object.pointer("/spec/jobTemplate/spec/template")?,
        _ => return None,
    };
    let name = object.pointer("/metadata/name")?;
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
    let labels = template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let annotations = template.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({}));
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels, "annotations": annotations});
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec")?}))
}

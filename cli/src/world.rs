//! What manifests describe: the world of the reference, and the rows that the compiler makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axoneme_compile::{Assignments, Held};
use axoneme_intake::{EndpointSlice, Options, Parsed};
use axoneme_model::{
    Identity, ObjectRef, World,
    rows::RowSet,
    world::{Namespace, Node, Pod},
};
use serde_json::{Value, json};

use crate::{lint, manifests::Document};

/// Node on which pods stand that the manifests bind to none.
pub(crate) const SOMEWHERE: &str = "(any node)";

/// The rows of all nodes, as the operator would make them: the same compiler.
pub fn rows(world: &World) -> RowSet {
    let held = Held::default();
    let wanted = axoneme_compile::compile(world, &Assignments::new(), &held).wanted;
    let numbered = (Identity::FIRST.0..).map(Identity).zip(wanted).map(|(id, labels)| (labels, id)).collect();
    axoneme_compile::compile(world, &numbered, &held).rows
}

/// What manifests say.
#[derive(Debug)]
pub struct Described {
    pub world: World,
    /// What of them could not be taken.
    pub caveats: Vec<String>,
    /// `file:line` of each policy.
    pub places: BTreeMap<ObjectRef, String>,
}

/// The world that the manifests describe.
pub fn build(documents: &[Document]) -> Described {
    build_under(lint::options(documents), documents)
}

/// The same under settings that are said elsewhere.
pub fn build_under(options: Options, documents: &[Document]) -> Described {
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
    places: BTreeMap<ObjectRef, String>,
}

impl Builder {
    fn add(&mut self, object: &Value, place: &str) {
        let template = pod_of_workload(object);
        match axoneme_intake::parse_with(template.as_ref().unwrap_or(object), &self.options) {
            Ok(parsed) => {
                if let Parsed::Policy(policy) = &parsed {
                    self.places.insert(policy.object.clone(), place.to_owned());
                }
                self.take(parsed);
            }
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
            Parsed::Identity(..)
            | Parsed::CiliumNode(_)
            | Parsed::NodeConfig(_)
            | Parsed::PodIpPool(_)
            | Parsed::Ignored => {}
        }
    }

    /// Fills in what a cluster would: namespaces, a node, addresses of pods, endpoints of services.
    fn finish(self) -> Described {
        let Self { mut world, slices, caveats, places, .. } = self;
        world.nodes.entry(SOMEWHERE.into()).or_insert_with(|| Node { name: SOMEWHERE.into(), ..Node::default() });
        let namespaces: BTreeSet<Arc<str>> = world.pods.keys().map(|k| k.0.clone()).collect();
        for name in namespaces {
            world.namespaces.entry(name.clone()).or_insert_with(|| {
                // what the API server puts on every namespace (KEP-2161)
                let labels = [("kubernetes.io/metadata.name".into(), name)].into();
                Namespace { labels, ..Namespace::default() }
            });
        }
        for (n, pod) in (0..).zip(world.pods.values_mut()) {
            settle(pod, n);
        }
        for (key, service) in &mut world.services {
            service.endpoints = axoneme_intake::merge(slices.get(key).into_iter().flatten());
        }
        Described { world, caveats, places }
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

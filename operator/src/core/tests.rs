//! The core against an API server that is a map: it refuses names that are taken and versions that are old.

mod audit;
mod bandwidth;
mod crowded;
mod denials;
mod host;
mod ipam;
mod overrides;
mod past;
mod size;
mod tunnels;
mod turns;

use std::cell::RefCell;

use axoneme_model::rows::RowSet;
use proptest::{collection as many, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{source::KINDS, write::Operation};

/// Objects by reference, each with its version, and the log that watches read.
#[derive(Debug, Default)]
struct Server {
    objects: BTreeMap<ObjectRef, Value>,
    log: Vec<SourceEvent>,
    version: u64,
    writes: usize,
    events: Vec<String>,
}

impl Server {
    fn put(&mut self, kind: Kind, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        let name = axoneme_intake::object_ref(kind, &object).unwrap();
        self.objects.insert(name, object.clone());
        self.log.push(SourceEvent::Apply { kind, object: object.clone() });
        object
    }

    fn delete(&mut self, object: &ObjectRef) {
        if self.objects.remove(object).is_some() {
            self.log.push(SourceEvent::Delete(object.clone()));
        }
    }

    fn write(&mut self, w: &Write) -> Outcome {
        let object = &w.key.object;
        if let Operation::Event { reason, message, .. } = &w.operation {
            self.events.push(format!("{object} {reason}: {message}"));
            return Outcome::Done(None);
        }
        self.writes += 1;
        let now = self.objects.get(object).cloned();
        match (&w.operation, now) {
            (Operation::Create(_), Some(_)) => Outcome::Conflict,
            (Operation::Create(body), None) => Outcome::Done(Some(self.put(object.kind, body.clone()))),
            (Operation::Merge(body) | Operation::Strategic(body), Some(mut now)) => {
                let wanted = body.pointer("/metadata/resourceVersion");
                if wanted.is_some_and(|v| Some(v) != now.pointer("/metadata/resourceVersion")) {
                    return Outcome::Conflict;
                }
                merge(&mut now, body);
                Outcome::Done(Some(self.put(object.kind, now)))
            }
            (Operation::Delete { .. }, Some(_)) => {
                self.delete(object);
                Outcome::Done(None)
            }
            _ => Outcome::Failed("not found".into()),
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |(o, _)| o.kind == kind).map(|(_, v)| v)
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            into.as_object_mut().unwrap().remove(k);
        } else {
            merge(&mut into[k], v);
        }
    }
}

/// A replica with its place in the server's log.
struct Replica {
    core: Core,
    read: usize,
    now: Instant,
}

impl Replica {
    fn new(name: &str) -> Self {
        // nodes of these tests say nothing
        Self::with(name, Timing { hearing: Duration::ZERO, ..Timing::default() })
    }

    fn with(name: &str, timing: Timing) -> Self {
        let mut core = Core::new(name, timing);
        for k in KINDS {
            core.source(SourceEvent::Synced(k));
        }
        Self { core, read: 0, now: Instant::now() }
    }

    fn hear(&mut self, server: &Server) {
        for e in &server.log[self.read..] {
            self.core.source(e.clone());
        }
        self.read = server.log.len();
    }

    fn flush(&mut self) -> Vec<Write> {
        self.core.flush(self.now, "2026-01-01T00:00:00Z").writes
    }

    /// Hears, plans, writes and hears again until nothing is left to do.
    fn settle(&mut self, server: &mut Server) {
        for _ in 0..50 {
            self.hear(server);
            self.now += Duration::from_secs(1);
            let writes = self.flush();
            for w in &writes {
                let outcome = server.write(w);
                self.core.wrote(&w.key, outcome, self.now);
            }
            if writes.is_empty() && self.read == server.log.len() && self.core.holding.is_empty() {
                return;
            }
        }
        panic!("does not settle");
    }
}

fn node(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "spec": {"taints": [{"key": "node.cilium.io/agent-not-ready", "effect": "NoSchedule"},
        {"key": "other", "effect": "NoSchedule"}]}, "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
}

fn pod(name: &str, node: &str, app: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": app, "noise": name}}, "spec": {"nodeName": node}})
}

fn policy(app: &str, from: &str, generation: i64) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "ns", "generation": generation},
        "spec": {"endpointSelector": {"matchLabels": {"app": app}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"app": from}}]}]}})
}

fn cluster() -> Server {
    let mut s = Server::default();
    s.put(Kind::Namespace, json!({"metadata": {"name": "ns"}}));
    s.put(Kind::Node, node("n1", "192.0.2.1"));
    s.put(Kind::Node, node("n2", "192.0.2.2"));
    s.put(Kind::Pod, pod("a", "n1", "web"));
    s.put(Kind::Pod, pod("b", "n2", "db"));
    s
}

fn conditions(v: &Value) -> BTreeMap<String, (String, String, String)> {
    let list = v.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |c: &Value, f: &str| c[f].as_str().unwrap_or_default().to_owned();
    list.iter().map(|c| (text(c, "type"), (text(c, "status"), text(c, "reason"), text(c, "message")))).collect()
}

#[test]
fn a_cluster_gets_addresses_identities_and_status_and_then_no_more_writes() {
    let mut s = cluster();
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    assert_eq!(s.of(Kind::CiliumNode).count(), 2);
    assert_eq!(s.of(Kind::CiliumIdentity).count(), 2, "one for each set of labels that a policy reads");
    let identity = s.of(Kind::CiliumIdentity).next().unwrap();
    assert!(identity["security-labels"]["k8s:app"].is_string());
    assert!(!identity.to_string().contains("noise"));
    let written = s.objects.values().find(|v| v["kind"] == "CiliumNetworkPolicy").unwrap();
    let c = conditions(written);
    assert_eq!(c["Valid"].0, "True");
    assert_eq!(c["Enforced"], ("False".into(), "Pending".into(), "0/1 nodes, generation 1".into()));
    let before = s.writes;
    for _ in 0..20 {
        r.settle(&mut s);
    }
    assert_eq!(s.writes, before, "a cluster at rest is not written to");
    // another replica that takes over finds nothing to do either
    let mut other = Replica::new("b");
    other.core.lead(Leadership::Me);
    other.settle(&mut s);
    assert_eq!(s.writes, before);
}

#[test]
fn a_replica_that_does_not_lead_writes_nothing() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.settle(&mut s);
    assert_eq!(s.writes, 0);
}

#[test]
fn nothing_is_compiled_before_all_sources_are_there() {
    let mut core = Core::new("a", Timing::default());
    core.lead(Leadership::Me);
    core.source(SourceEvent::Apply { kind: Kind::Node, object: node("n1", "192.0.2.1") });
    KINDS.iter().skip(1).for_each(|k| core.source(SourceEvent::Synced(*k)));
    let f = core.flush(Instant::now(), "");
    assert!(!f.ready && f.writes.is_empty() && core.hub.revision() == 0);
    core.source(SourceEvent::Synced(KINDS[0]));
    let f = core.flush(Instant::now(), "");
    assert!(f.ready && !f.writes.is_empty() && core.hub.revision() > 0);
}

#[test]
fn broken_and_unsupported_policies_say_so_by_field() {
    let mut s = cluster();
    let mut bad = policy("web", "db", 1);
    bad["spec"]["ingress"][0]["toPorts"] =
        json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}}]);
    s.put(Kind::CiliumNetworkPolicy, bad);
    s.put(Kind::NetworkPolicy, json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "np", "namespace": "ns"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/40"}}]}]}}));
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let c = conditions(s.of(Kind::CiliumNetworkPolicy).next().unwrap());
    assert_eq!((c["Valid"].0.as_str(), c["Valid"].1.as_str()), ("False", "Unsupported"));
    assert!(c["Valid"].2.contains("spec.ingress[0].toPorts[0].rules"), "{}", c["Valid"].2);
    assert_eq!(c["Enforced"].1, "FailClosed");
    assert!(
        s.events.iter().any(|e| e.contains("NetworkPolicy ns/np Invalid") && e.contains("10.0.0.0/40")),
        "{:?}",
        s.events
    );
    assert!(s.events.iter().any(|e| e.contains("CiliumNetworkPolicy ns/p Unsupported")), "{:?}", s.events);
    assert_eq!(s.events.len(), 2, "each is told once: {:?}", s.events);
}

#[test]
fn a_ready_agent_takes_the_taint_away_and_sets_the_condition() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let report =
        axoneme_wire::NodeReport { ready: true, addresses: vec!["10.244.0.1".parse().unwrap()], ..Default::default() };
    r.core.cluster.node_report(&"n1".into(), report);
    r.settle(&mut s);
    let n1 = s.objects[&ObjectRef::new(Kind::Node, "", "n1")].clone();
    assert_eq!(n1["spec"]["taints"], json!([{"key": "other", "effect": "NoSchedule"}]));
    assert_eq!(n1["status"]["conditions"][0]["status"], "False");
    let cn = &s.objects[&ObjectRef::new(Kind::CiliumNode, "", "n1")];
    assert!(cn["spec"]["addresses"].to_string().contains("CiliumInternalIP"));
    let n2 = &s.objects[&ObjectRef::new(Kind::Node, "", "n2")];
    assert_eq!(n2["spec"]["taints"].as_array().unwrap().len(), 2);
}

#[test]
fn a_node_keeps_pods_away_until_its_datapath_is_proven_and_when_it_is_refuted() {
    use axoneme_wire::Proof;
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let refuted = |why: &str| Proof::Refuted(why.to_owned());
    let (mut condition, mut writes) = (Value::Null, 0);
    for (proof, tainted, status, reason) in [
        (Proof::Pending, true, Value::Null, Value::Null),
        (refuted("its own health endpoint is silent"), true, json!("True"), json!("DatapathNotProven")),
        (Proof::Proven, false, json!("False"), json!("AxonemeIsUp")),
        // the agent starts anew
        (Proof::Pending, false, json!("False"), json!("AxonemeIsUp")),
        (Proof::Proven, false, json!("False"), json!("AxonemeIsUp")),
        (refuted("no endpoint of others answers"), false, json!("True"), json!("DatapathNotProven")),
        (refuted("in other words"), false, json!("True"), json!("DatapathNotProven")),
        (Proof::Unasked, false, json!("False"), json!("AxonemeIsUp")),
    ] {
        let report = axoneme_wire::NodeReport { ready: true, proof: proof.clone(), ..Default::default() };
        r.core.cluster.node_report(&"n1".into(), report);
        r.settle(&mut s);
        let n1 = &s.objects[&ObjectRef::new(Kind::Node, "", "n1")];
        let has = n1["spec"]["taints"].to_string().contains(crate::plan::nodes::TAINT);
        let now = n1["status"]["conditions"][0].clone();
        assert_eq!((has, &now["status"], &now["reason"]), (tainted, &status, &reason), "{proof:?}");
        writes += usize::from(now != condition);
        condition = now;
    }
    assert_eq!(writes, 4, "one a change, none for other words");
}

#[test]
fn the_taint_of_a_node_whose_agent_has_gone_stays_until_it_is_back() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let report = axoneme_wire::NodeReport { ready: true, ..Default::default() };
    let tainted = |s: &Server| s.objects[&ObjectRef::new(Kind::Node, "", "n1")]["spec"]["taints"].to_string();
    r.core.cluster.node_report(&"n1".into(), report.clone());
    r.settle(&mut s);
    assert!(!tainted(&s).contains(crate::plan::nodes::TAINT));
    r.core.cluster.node_silent(&"n1".into());
    s.put(Kind::Node, node("n1", "192.0.2.1"));
    r.settle(&mut s);
    assert!(tainted(&s).contains(crate::plan::nodes::TAINT));
    // a session repeats the newest report first
    r.core.cluster.node_report(&"n1".into(), report);
    r.settle(&mut s);
    assert!(!tainted(&s).contains(crate::plan::nodes::TAINT));
}

#[test]
fn a_node_that_leaves_gives_its_block_back() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    s.delete(&ObjectRef::new(Kind::Node, "", "n1"));
    r.settle(&mut s);
    assert_eq!(s.of(Kind::CiliumNode).count(), 1);
    s.put(Kind::Node, node("n3", "192.0.2.3"));
    r.settle(&mut s);
    let n3 = &s.objects[&ObjectRef::new(Kind::CiliumNode, "", "n3")];
    assert_eq!(n3["spec"]["ipam"]["podCIDRs"], json!(["10.244.0.0/24"]));
}

#[test]
fn a_new_leader_writes_no_status_before_nodes_could_say_what_they_have() {
    let mut s = cluster();
    s.put(Kind::AxonemeConfig, json!({"metadata": {"name": "default", "generation": 1}, "spec": {}}));
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    let mut r = Replica::with("a", Timing::default());
    r.core.lead(Leadership::Me);
    let told = |s: &Server| s.objects.values().any(|o| !o["status"]["conditions"].is_null());
    for second in 0.. {
        r.hear(&s);
        r.now += Duration::from_secs(1);
        for w in r.flush() {
            let outcome = s.write(&w);
            r.core.wrote(&w.key, outcome, r.now);
        }
        if told(&s) {
            assert!(second >= 19, "after {second} s");
            return;
        }
        assert!(second < 30, "never");
    }
}

#[test]
fn a_pool_problem_is_a_condition_of_the_settings() {
    let mut s = cluster();
    s.put(
        Kind::AxonemeConfig,
        json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
        "spec": {"ipam": {"clusterPool": {"ipv4": {"cidrs": ["10.1.0.0/24"], "maskSize": 24}}}}}),
    );
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let c = conditions(s.of(Kind::AxonemeConfig).next().unwrap());
    assert_eq!((c["AddressesAvailable"].0.as_str(), c["Valid"].0.as_str()), ("False", "True"));
    assert!(c["AddressesAvailable"].2.contains("node n2: no free /24 is left in 10.1.0.0/24"), "{c:?}");
}

#[test]
fn a_policy_that_starts_to_read_a_label_splits_identities_make_before_break() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let identity_of = |r: &Replica| {
        r.core.rows.endpoints().values().map(|e| (e.name.clone(), e.identity)).collect::<BTreeMap<_, _>>()
    };
    let before = identity_of(&r);
    assert_eq!(before["a"], before["b"]);
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    r.hear(&s);
    let writes = r.flush();
    assert_eq!(identity_of(&r), before, "pods keep what they have while there is no number");
    assert!(!in_force(&r), "rules wait for what they tell apart");
    for w in &writes {
        let outcome = s.write(w);
        r.core.wrote(&w.key, outcome, r.now);
    }
    r.settle(&mut s);
    let after = identity_of(&r);
    assert_ne!(after["a"], after["b"]);
    assert!(in_force(&r));
    assert!(has_no_reader(&r));
}

/// Whether some pod's table has the rules of a policy.
fn in_force(r: &Replica) -> bool {
    r.core.rows.all().tables.values().any(|t| !t.policies.is_empty())
}

fn has_no_reader(r: &Replica) -> bool {
    r.core.rows.all().rules.values().all(|rule| !rule.rule.object.name.contains('('))
}

#[test]
fn rules_wait_for_identities_no_longer_than_an_announcement() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    r.hear(&s);
    r.flush();
    r.now += Duration::from_secs(2);
    r.flush();
    assert!(!in_force(&r));
    r.now += Duration::from_secs(1);
    r.flush();
    assert!(in_force(&r), "no number came, but a policy is a policy");
    assert!(has_no_reader(&r));
}

#[test]
fn a_policy_that_goes_while_its_rules_wait_leaves_nothing() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    let before = r.core.rows.all();
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "p");
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    r.hear(&s);
    r.flush();
    s.delete(&object);
    r.hear(&s);
    r.flush();
    assert_eq!(r.core.rows.all(), before);
    r.now += Timing::default().announce;
    r.flush();
    assert_eq!(r.core.rows.all(), before);
}

#[test]
fn a_policy_of_labels_that_are_read_already_does_not_wait() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    r.settle(&mut s);
    let generation = |r: &Replica| r.core.rows.all().tables.values().flat_map(|t| t.policies.values().copied()).max();
    assert_eq!(generation(&r), Some(1));
    s.put(Kind::CiliumNetworkPolicy, policy("db", "web", 2));
    r.hear(&s);
    r.flush();
    assert_eq!(generation(&r), Some(2));
}

#[test]
fn a_policy_that_is_deleted_while_its_status_is_written_stays_deleted() {
    let mut s = cluster();
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "ns", "p");
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.settle(&mut s);
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    let mut status = None;
    for _ in 0..20 {
        r.hear(&s);
        r.now += Duration::from_secs(1);
        for w in r.flush() {
            let outcome = s.write(&w);
            if w.key.object == object && w.key.part == Part::Status {
                status = Some((w.key, outcome));
            } else {
                r.core.wrote(&w.key, outcome, r.now);
            }
        }
        if status.is_some() {
            break;
        }
    }
    let (key, answer) = status.expect("the status is written");
    assert!(matches!(answer, Outcome::Done(Some(_))));
    s.delete(&object);
    r.hear(&s);
    assert!(!r.core.cluster.policies.contains_key(&object));
    r.core.wrote(&key, answer, r.now);
    assert!(!r.core.cluster.policies.contains_key(&object), "the answer came after the watch had told of the end");
    // and another of its name counts
    s.put(Kind::CiliumNetworkPolicy, policy("web", "db", 1));
    r.settle(&mut s);
    assert!(r.core.cluster.policies.contains_key(&object) && in_force(&r));
}

/// What must hold of the server at any time.
fn nothing_is_handed_out_twice(s: &Server) {
    let blocks: Vec<String> = s
        .of(Kind::CiliumNode)
        .flat_map(|n| n.pointer("/spec/ipam/podCIDRs").and_then(Value::as_array).cloned().unwrap_or_default())
        .map(|b| b.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len(), "{blocks:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Node(u8),
    NodeGone(u8),
    Pod(u8, u8, u8),
    PodGone(u8),
    /// The leader writes only so many of what it planned, then it is killed; the other takes the Lease.
    Kill(usize),
    /// The follower hears nothing for a while.
    Deaf,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8).prop_map(Step::Node),
        1 => (0..6u8).prop_map(Step::NodeGone),
        3 => (0..8u8, 0..6u8, 0..4u8).prop_map(|(p, n, a)| Step::Pod(p, n, a)),
        1 => (0..8u8).prop_map(Step::PodGone),
        2 => (0..6usize).prop_map(Step::Kill),
        1 => Just(Step::Deaf),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The leader dies at any write, the other replica goes on from what it heard and the fresh list that a new leader
    /// reads: no block and no number has two owners, none in use moves, and in the end everybody has what they need.
    #[test]
    fn killing_the_leader_at_any_write_loses_nothing_and_gives_nothing_twice(steps in many::vec(step(), 1..25)) {
        let mut s = Server::default();
        s.put(Kind::Namespace, json!({"metadata": {"name": "ns"}}));
        s.put(Kind::CiliumNetworkPolicy, policy("0", "1", 1));
        let (mut leader, mut other) = (Replica::new("a"), Replica::new("b"));
        leader.core.lead(Leadership::Me);
        let mut numbers: BTreeMap<String, Value> = BTreeMap::new();
        for step in steps {
            let mut deaf = false;
            match step {
                Step::Node(n) if !s.objects.contains_key(&ObjectRef::new(Kind::Node, "", &format!("n{n}"))) => {
                    drop(s.put(Kind::Node, node(&format!("n{n}"), &format!("192.0.2.{n}"))));
                }
                Step::Node(_) => {}
                Step::NodeGone(n) => s.delete(&ObjectRef::new(Kind::Node, "", &format!("n{n}"))),
                Step::Pod(p, n, a) => drop(s.put(Kind::Pod, pod(&format!("p{p}"), &format!("n{n}"), &a.to_string()))),
                Step::PodGone(p) => s.delete(&ObjectRef::new(Kind::Pod, "ns", &format!("p{p}"))),
                Step::Deaf => deaf = true,
                Step::Kill(writes) => {
                    leader.hear(&s);
                    leader.now += Duration::from_secs(1);
                    for w in leader.flush().iter().take(writes) {
                        s.write(w);
                    }
                    std::mem::swap(&mut leader, &mut other);
                    // the fresh list
                    let fresh: Vec<_> = s.objects.iter().filter(|(o, _)| matches!(o.kind, Kind::CiliumNode | Kind::CiliumIdentity)).collect();
                    for (o, v) in fresh {
                        leader.core.source(SourceEvent::Apply { kind: o.kind, object: v.clone() });
                    }
                    leader.core.lead(Leadership::Me);
                    other = Replica::new("again");
                }
            }
            if !deaf {
                leader.settle(&mut s);
                other.hear(&s);
            }
            nothing_is_handed_out_twice(&s);
            for (o, v) in s.objects.iter().filter(|(o, _)| o.kind == Kind::CiliumIdentity) {
                let labels = numbers.entry(o.name.to_string()).or_insert_with(|| v["security-labels"].clone());
                prop_assert_eq!(&*labels, &v["security-labels"], "number {} changed its meaning", &o.name);
            }
        }
        leader.settle(&mut s);
        let nodes = s.of(Kind::Node).count();
        prop_assert_eq!(s.of(Kind::CiliumNode).count(), nodes);
        prop_assert_eq!(leader.core.identities.missing(), 0);
    }

    /// The order of events does not show in the rows.
    #[test]
    fn rows_do_not_depend_on_the_order_of_events(order in Just((0..8usize).collect::<Vec<_>>()).prop_shuffle()) {
        let objects: Vec<(Kind, Value)> = vec![
            (Kind::Namespace, json!({"metadata": {"name": "ns"}})),
            (Kind::Node, node("n1", "192.0.2.1")),
            (Kind::Node, node("n2", "192.0.2.2")),
            (Kind::Pod, pod("a", "n1", "web")),
            (Kind::Pod, pod("b", "n2", "db")),
            (Kind::CiliumNetworkPolicy, policy("web", "db", 1)),
            (Kind::CiliumIdentity, json!({"metadata": {"name": "300"}, "security-labels": labels("web")})),
            (Kind::CiliumIdentity, json!({"metadata": {"name": "301"}, "security-labels": labels("db")})),
        ];
        thread_local!(static FIRST: RefCell<Option<RowSet>> = const { RefCell::new(None) });
        let mut r = Replica::new("a");
        for i in order {
            let (kind, object) = objects[i].clone();
            r.core.source(SourceEvent::Apply { kind, object });
            r.flush();
        }
        // rules that wait come into force after what they wait for
        while !r.core.holding.is_empty() {
            r.flush();
        }
        let rows = r.core.rows.all();
        FIRST.with_borrow_mut(|first| {
            let first = first.get_or_insert_with(|| rows.clone());
            prop_assert_eq!(&*first, &rows);
            prop_assert_eq!(rows.endpoints.len(), 2);
            Ok(())
        })?;
    }
}

fn labels(app: &str) -> Value {
    json!({"k8s:app": app, "k8s:io.cilium.k8s.policy.cluster": "default",
        "k8s:io.cilium.k8s.policy.serviceaccount": "default", "k8s:io.kubernetes.pod.namespace": "ns"})
}

#[test]
fn a_write_that_fails_rests_and_is_tried_again_and_others_go_on() {
    let mut s = cluster();
    let mut r = Replica::new("a");
    r.core.lead(Leadership::Me);
    r.hear(&s);
    let writes = r.flush();
    let (broken, rest): (Vec<_>, Vec<_>) = writes.into_iter().partition(|w| &*w.key.object.name == "n1");
    assert_eq!(broken.len(), 1);
    r.core.wrote(&broken[0].key, Outcome::Failed("no".into()), r.now);
    for w in rest {
        let outcome = s.write(&w);
        r.core.wrote(&w.key, outcome, r.now);
    }
    assert!(r.flush().iter().all(|w| w.key != broken[0].key), "it rests");
    r.settle(&mut s);
    assert_eq!(s.of(Kind::CiliumNode).count(), 2);
}

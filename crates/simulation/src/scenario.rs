//! One run: a cluster that its users change while its parts fail, and then rest.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axoneme_model::{Kind, ObjectRef};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    check::{Checks, Tally},
    dice::Dice,
    history::History,
    machine::Machine,
    net::API,
    pod::{Book, Sandbox},
    replica::{self, Process},
    sabotage::Sabotage,
    sim::Sim,
};

const REPLICAS: [&str; 2] = ["op-0", "op-1"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const NAMESPACES: [&str; 2] = ["shop", "lab"];
/// Pods that there are at most.
const PODS: usize = 12;
/// From the last fault on, all must be as the objects say within this time: the longest pauses of its parts are 30 s
/// (redirects), 20 s (numbers for identities at start), 15 s (pings), 10 s (reconnects), 8 s (the Lease).
const REST: Duration = Duration::from_mins(2);

/// What is to be played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// How long users change objects and parts fail, in the run's own time.
    pub churn: Duration,
    pub faults: bool,
    pub sabotage: Sabotage,
}

impl Plan {
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { seed, churn: Duration::from_secs(40), faults: true, sabotage: Sabotage::None }
    }
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All that happened, in words.
    pub trace: String,
    /// What must not have been.
    pub wrong: Vec<String>,
    pub tally: Tally,
    /// From the last fault until all was as the objects say, in the run's own time.
    pub rest: Duration,
}

/// Plays a plan.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut cluster = World::start(plan).await;
        cluster.churn().await;
        cluster.rest().await
    })
}

/// Something that ends by itself.
#[derive(Clone, Debug)]
enum Mend {
    Cut(Arc<str>, Arc<str>),
    Replica(usize),
    Agent(Arc<str>),
    Storm,
    Wall(Arc<str>),
}

struct World {
    plan: Plan,
    sim: Arc<Sim>,
    dice: Dice,
    replicas: Vec<Option<Process>>,
    lives: Vec<u32>,
    book: Arc<Mutex<Book>>,
    checks: Checks,
    pods: BTreeMap<ObjectRef, CancellationToken>,
    kubelets: JoinSet<()>,
    made: u32,
    due: Vec<(Instant, Mend)>,
}

impl World {
    async fn start(plan: &Plan) -> Self {
        let sim = Arc::new(Sim::new(plan.seed, plan.sabotage));
        let machines: BTreeMap<Arc<str>, Arc<Machine>> = (1..)
            .zip(NODES)
            .map(|(n, name)| {
                let address = IpAddr::V4(Ipv4Addr::new(192, 168, 0, n));
                (Arc::from(name), Arc::new(Machine::new(&sim, name, address)))
            })
            .collect();
        let book = Arc::<Mutex<Book>>::default();
        let checks = Checks {
            sim: sim.clone(),
            book: book.clone(),
            machines,
            history: History::default(),
            tally: Tally::default(),
        };
        let mut world = Self {
            plan: *plan,
            dice: Dice::new(plan.seed, "director"),
            replicas: REPLICAS.iter().map(|_| None).collect(),
            lives: vec![0; REPLICAS.len()],
            book,
            checks,
            pods: BTreeMap::new(),
            kubelets: JoinSet::new(),
            made: 0,
            due: Vec::new(),
            sim,
        };
        world.objects();
        for i in 0..REPLICAS.len() {
            world.start_replica(i);
        }
        for node in NODES {
            world.start_agent(node);
        }
        for _ in 0..4 {
            world.new_pod();
        }
        sleep(Duration::from_secs(3)).await;
        world
    }

    fn objects(&self) {
        let api = &self.sim.api;
        api.put(
            Kind::AxonemeConfig,
            json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default", "generation": 1},
            "spec": {"ipam": {"clusterPool": {"ipv4": {"cidrs": ["10.1.0.0/25"], "maskSize": 28}}}}}),
        );
        for namespace in NAMESPACES {
            api.put(Kind::Namespace, json!({"metadata": {"name": namespace, "labels": {"tier": "one"}}}));
        }
        for machine in self.checks.machines.values() {
            let address = machine.address.to_string();
            api.put(
                Kind::Node,
                json!({"metadata": {"name": &*machine.name}, "spec": {"taints": [
                {"key": "node.cilium.io/agent-not-ready", "effect": "NoSchedule"}]},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
            );
        }
    }

    fn start_replica(&mut self, i: usize) {
        self.lives[i] += 1;
        self.sim.say(REPLICAS[i], format_args!("process {} starts", self.lives[i]));
        self.replicas[i] = Some(replica::start(&self.sim, REPLICAS[i], self.lives[i]));
    }

    fn start_agent(&self, name: &str) {
        let addresses: Vec<String> = REPLICAS.iter().map(|r| replica::address(r)).collect();
        if let Some(machine) = self.checks.machines.get(name).filter(|m| !m.is_up()) {
            machine.start(&addresses);
        }
    }

    /// Users and weather.
    async fn churn(&mut self) {
        let end = Instant::now() + self.plan.churn;
        while Instant::now() < end {
            sleep(self.dice.millis(50..900)).await;
            self.mend_due();
            if self.plan.faults && self.dice.chance(220) {
                self.fault();
            } else {
                self.user();
            }
            for _ in 0..self.dice.below(3) {
                sleep(self.dice.millis(1..300)).await;
                let mut dice = Dice::new(self.plan.seed, &format!("packets {:?}", self.sim.start.elapsed()));
                self.checks.sample(&mut dice, 8);
            }
        }
    }

    /// All is mended; now it must become as the objects say.
    async fn rest(mut self) -> Outcome {
        self.sim.say("weather", "is fair");
        self.sim.net.mend_all();
        for (_, mend) in std::mem::take(&mut self.due) {
            self.mend(&mend);
        }
        let begun = Instant::now();
        let mut dice = Dice::new(self.plan.seed, "rest");
        let mut left = None;
        while begun.elapsed() < REST {
            sleep(Duration::from_secs(1)).await;
            self.checks.sample(&mut dice, 6);
            left = if self.settled() { self.checks.differs() } else { Some("pods come and go".to_owned()) };
            if left.is_none() {
                break;
            }
        }
        let rest = begun.elapsed();
        if let Some(difference) = left {
            self.sim.wrong(format!("not as the objects say {} s after the last fault: {difference}", REST.as_secs()));
        }
        self.sim.say("end", format_args!("{:?} after {} s", self.checks.tally, rest.as_secs()));
        Outcome { wrong: self.sim.take_wrong(), trace: self.sim.trace(), tally: self.checks.tally, rest }
    }

    /// Every pod that should run does, no other does, and the objects say so.
    fn settled(&self) -> bool {
        let book = self.book.lock().unwrap();
        let state = self.sim.api.state();
        let wanted = self.pods.iter().filter(|(_, gone)| !gone.is_cancelled()).count();
        let has = |pod: &Value| pod.pointer("/status/podIPs").is_some();
        book.held().len() == wanted
            && state.of(Kind::Pod).count() == wanted
            && state.of(Kind::Pod).all(|(_, pod)| has(pod))
    }

    fn user(&mut self) {
        match self.dice.below(100) {
            0..31 => self.new_policy(),
            31..40 => self.delete_policy(),
            40..45 => self.toggle_node(),
            45..70 => self.new_pod(),
            70..82 => self.delete_pod(),
            82..92 => self.relabel_pod(),
            _ => self.relabel_namespace(),
        }
    }

    /// Nodes without a machine come and go: each gets a block of addresses, and there are no more blocks than nodes.
    fn toggle_node(&mut self) {
        let name = format!("m{}", self.dice.below(6));
        let object = ObjectRef::new(Kind::Node, "", &name);
        if self.sim.api.delete(&object) {
            self.sim.say("user", format_args!("removes node {name}"));
            return;
        }
        self.sim.say("user", format_args!("adds node {name}"));
        let address = format!("192.168.1.{}", &name[1..]);
        self.sim.api.put(
            Kind::Node,
            json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
        );
    }

    fn new_pod(&mut self) {
        if self.pods.values().filter(|gone| !gone.is_cancelled()).count() >= PODS {
            return self.delete_pod();
        }
        self.made += 1;
        let (name, namespace) = (format!("p{}", self.made), *self.dice.pick(&NAMESPACES).unwrap());
        let node = *self.dice.pick(&NODES).unwrap();
        let labels = self.labels();
        let pod = self.sim.api.put(
            Kind::Pod,
            json!({"metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"ports": [{"name": "web", "containerPort": 80}]}]}}),
        );
        self.sim.say("user", format_args!("pod {name} {} on {node}", pod["metadata"]["labels"]));
        let object = ObjectRef::new(Kind::Pod, namespace, &name);
        let gone = CancellationToken::new();
        self.pods.insert(object.clone(), gone.clone());
        let sandbox = Sandbox {
            sim: self.sim.clone(),
            book: self.book.clone(),
            machine: self.checks.machines[node].clone(),
            pod: object,
            uid: pod["metadata"]["uid"].as_str().unwrap().into(),
            gone,
        };
        self.kubelets.spawn(sandbox.live());
    }

    fn labels(&mut self) -> Value {
        let (app, role) = (*self.dice.pick(&["a", "b", "c"]).unwrap(), *self.dice.pick(&["x", "y"]).unwrap());
        json!({"app": app, "role": role, "noise": self.made.to_string()})
    }

    fn running(&mut self) -> Option<ObjectRef> {
        let running: Vec<_> =
            self.pods.iter().filter(|(_, gone)| !gone.is_cancelled()).map(|(o, _)| o.clone()).collect();
        self.dice.pick(&running).cloned()
    }

    fn delete_pod(&mut self) {
        let Some(pod) = self.running() else { return };
        let force = self.dice.chance(250);
        self.sim.say("user", format_args!("deletes {}{}", pod.name, if force { " by force" } else { "" }));
        if force {
            self.sim.api.delete(&pod);
        }
        self.pods[&pod].cancel();
    }

    fn relabel_pod(&mut self) {
        let Some(pod) = self.running() else { return };
        let Some(mut object) = self.sim.api.get(&pod) else { return };
        object["metadata"]["labels"] = self.labels();
        self.sim.say("user", format_args!("{} is {} now", pod.name, object["metadata"]["labels"]));
        self.sim.api.put(Kind::Pod, object);
    }

    fn relabel_namespace(&mut self) {
        let (name, tier) = (*self.dice.pick(&NAMESPACES).unwrap(), *self.dice.pick(&["one", "two"]).unwrap());
        self.sim.say("user", format_args!("namespace {name} is of tier {tier}"));
        self.sim.api.put(Kind::Namespace, json!({"metadata": {"name": name, "labels": {"tier": tier}}}));
    }

    fn delete_policy(&mut self) {
        let there: Vec<ObjectRef> = {
            let state = self.sim.api.state();
            replica::POLICY_KINDS.iter().flat_map(|k| state.of(*k).map(|(o, _)| o.clone())).collect()
        };
        let Some(policy) = self.dice.pick(&there) else { return };
        self.sim.say("user", format_args!("deletes {policy}"));
        self.sim.api.delete(policy);
    }

    /// A new policy, or another version of one that is there.
    fn new_policy(&mut self) {
        let name = format!("q{}", self.dice.below(4));
        let namespace = *self.dice.pick(&NAMESPACES).unwrap();
        let (kind, mut object) = self.policy(namespace);
        let namespace = if kind == Kind::CiliumClusterwideNetworkPolicy { "" } else { namespace };
        let known = self.sim.api.get(&ObjectRef::new(kind, namespace, &name));
        let generation = known.as_ref().and_then(|o| o["metadata"]["generation"].as_i64()).unwrap_or(0) + 1;
        let uid = known.as_ref().map(|o| o["metadata"]["uid"].clone()).unwrap_or_default();
        object["metadata"] = json!({"name": name, "generation": generation, "uid": uid});
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        if let Some(status) = known.as_ref().and_then(|o| o.get("status")) {
            object["status"] = status.clone();
        }
        self.sim.say("user", format_args!("{} {namespace}/{name} {generation}: {}", kind.as_str(), object["spec"]));
        self.sim.api.put(kind, object);
    }

    fn pods_of(&mut self) -> Value {
        match self.dice.below(5) {
            0 => json!({}),
            1 => json!({"matchLabels": {"role": *self.dice.pick(&["x", "y"]).unwrap()}}),
            2 => json!({"matchLabels": {"app": *self.dice.pick(&["a", "b"]).unwrap(), "role": "x"}}),
            _ => json!({"matchLabels": {"app": *self.dice.pick(&["a", "b", "c"]).unwrap()}}),
        }
    }

    fn policy(&mut self, namespace: &str) -> (Kind, Value) {
        let (subject, peer) = (self.pods_of(), self.pods_of());
        let port = *self.dice.pick(&["80", "443", "web"]).unwrap();
        if self.dice.chance(300) {
            let number = if port == "web" { json!("web") } else { json!(port.parse::<u16>().unwrap()) };
            let from = if self.dice.chance(400) {
                json!([{"namespaceSelector": {"matchLabels": {"tier": "two"}}}])
            } else {
                json!([{"podSelector": peer}])
            };
            let spec = json!({"podSelector": subject, "policyTypes": ["Ingress"],
                "ingress": [{"from": from, "ports": [{"protocol": "TCP", "port": number}]}]});
            return (
                Kind::NetworkPolicy,
                json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec}),
            );
        }
        let ports = json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
        let spec = match self.dice.below(6) {
            0 => json!({"endpointSelector": subject, "ingress": [{"fromEndpoints": [peer]}]}),
            1 => json!({"endpointSelector": subject, "ingress": [{"fromEndpoints": [peer], "toPorts": ports}]}),
            2 => json!({"endpointSelector": subject, "ingress": [{"fromEntities": ["all"]}],
                "ingressDeny": [{"fromEndpoints": [peer]}]}),
            3 => json!({"endpointSelector": subject, "egress": [{"toEndpoints": [peer]}]}),
            4 => {
                json!({"endpointSelector": subject, "egress": [{"toCIDR": ["192.0.2.0/24"]}, {"toEntities": ["cluster"]}]})
            }
            _ => json!({"endpointSelector": subject, "egressDeny": [{"toCIDR": ["192.0.2.0/24"]}]}),
        };
        if self.dice.chance(150) {
            let mut spec = spec;
            spec["endpointSelector"]["matchLabels"]["k8s:io.kubernetes.pod.namespace"] = namespace.into();
            return (
                Kind::CiliumClusterwideNetworkPolicy,
                json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "spec": spec}),
            );
        }
        (Kind::CiliumNetworkPolicy, json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "spec": spec}))
    }

    fn fault(&mut self) {
        let until = Instant::now()
            + match self.dice.below(10) {
                0 => self.dice.millis(10_000..28_000),
                1..4 => self.dice.millis(2_000..10_000),
                _ => self.dice.millis(100..2_000),
            };
        match self.dice.below(100) {
            0..40 => self.partition(until),
            40..60 => {
                let i = self.dice.below(REPLICAS.len());
                if let Some(process) = self.replicas[i].take() {
                    self.sim.say(REPLICAS[i], "killed");
                    process.kill();
                    self.due.push((until, Mend::Replica(i)));
                }
            }
            60..80 => {
                let name: Arc<str> = (*self.dice.pick(&NODES).unwrap()).into();
                if self.checks.machines[&name].is_up() {
                    self.checks.machines[&name].kill();
                    self.due.push((until, Mend::Agent(name)));
                }
            }
            80..88 => {
                self.sim.say("weather", "watches lose their history");
                *self.sim.storm.lock().unwrap() = true;
                self.due.push((until, Mend::Storm));
            }
            _ => {
                let host: Arc<str> = (*self.dice.pick(&[REPLICAS[0], REPLICAS[1], NODES[0], NODES[2]]).unwrap()).into();
                let by = *self.dice.pick(&[-86_400, -30, -3, 3, 30, 86_400]).unwrap();
                self.sim.say("weather", format_args!("the wall clock of {host} jumps by {by} s"));
                self.sim.set_wall(&host, by);
                self.due.push((until, Mend::Wall(host)));
            }
        }
    }

    fn partition(&mut self, until: Instant) {
        let mut hosts: Vec<&str> = vec![API];
        hosts.extend(REPLICAS);
        let a = *self.dice.pick(&hosts).unwrap();
        let others: Vec<&str> = match a {
            API => REPLICAS.iter().chain(&NODES).copied().collect(),
            _ => NODES.iter().chain(&[API]).copied().collect(),
        };
        // one, or from everybody
        let chosen: Vec<&str> = if self.dice.chance(300) { others } else { vec![*self.dice.pick(&others).unwrap()] };
        let ways = self.dice.below(4);
        for b in chosen {
            for (way, (from, to)) in [(a, b), (b, a)].into_iter().enumerate() {
                // mostly both ways
                if ways == way {
                    continue;
                }
                self.sim.say("weather", format_args!("nothing passes from {from} to {to}"));
                self.sim.net.cut(from, to);
                self.due.push((until, Mend::Cut(from.into(), to.into())));
            }
        }
    }

    fn mend_due(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        for (_, mend) in due {
            self.mend(&mend);
        }
    }

    fn mend(&mut self, mend: &Mend) {
        match mend {
            Mend::Cut(from, to) => {
                self.sim.say("weather", format_args!("{from} reaches {to} again"));
                self.sim.net.mend(from, to);
            }
            Mend::Replica(i) => self.start_replica(*i),
            Mend::Agent(name) => self.start_agent(name),
            Mend::Storm => *self.sim.storm.lock().unwrap() = false,
            Mend::Wall(host) => self.sim.set_wall(host, 0),
        }
    }
}

//! What must hold, at any time and in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use axoneme_compile::{Assignments, compile};
use axoneme_intake::{Parsed, parse_as};
use axoneme_kernel::datapath::Direction;
use axoneme_model::{
    Kind,
    rows::RowSet,
    world::{Pod, World},
};
use axoneme_operator::{
    source::{SourceEvent, slim},
    state::{Cluster, WorldChange},
};

use crate::{
    dice::Dice,
    history::{History, Holder, Says, oracle},
    kernel::Half,
    machine::Machine,
    pod::{Book, Holding},
    sim::Sim,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const PORTS: [u16; 4] = [53, 80, 443, 8080];
/// Addresses that no pod and no node has; the first is in a CIDR that policies name.
const OUTSIDE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))];

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets whose verdict was held to the oracle.
    pub judged: u64,
    /// Packets that were left out: too much had changed.
    pub left_out: u64,
    /// Denied, though every state of the objects allows it. Not promised while objects change.
    pub denied: u64,
}

/// Looks at kernels and holds them to the oracle.
#[expect(missing_debug_implementations, reason = "holds machines")]
pub struct Checks {
    pub sim: Arc<Sim>,
    pub book: Arc<Mutex<Book>>,
    pub machines: BTreeMap<Arc<str>, Arc<Machine>>,
    pub history: History,
    pub tally: Tally,
}

impl Checks {
    /// Some packets between pods, and between pods and the outside: none passes an end that no state of the objects
    /// since what its agent acknowledged last allows there.
    pub fn sample(&mut self, dice: &mut Dice, packets: usize) {
        self.history.read(&self.sim.api.state());
        let book = self.book.clone();
        let book = book.lock().unwrap();
        let held: Vec<(&IpAddr, &Holding)> = book.held().iter().collect();
        for _ in 0..packets {
            let Some((own, holding)) = dice.pick(&held).copied() else { return };
            let peer = match dice.below(4) {
                0 => *dice.pick(&OUTSIDE).unwrap(),
                _ => *dice.pick(&held).unwrap().0,
            };
            let direction = if dice.chance(500) { Direction::Ingress } else { Direction::Egress };
            let protocol = if dice.chance(700) { TCP } else { UDP };
            let port = *dice.pick(&PORTS).unwrap();
            if peer != *own {
                self.judge(&Half { direction, own: *own, peer, protocol, port }, holding, &book);
            }
        }
    }

    fn judge(&mut self, half: &Half, own: &Holding, book: &Book) {
        let Some(machine) = self.machines.get(&own.node) else { return };
        let mut peers: BTreeSet<Holder> = BTreeSet::from([Holder::Nobody]);
        peers.extend(book.held().get(&half.peer).map(|h| Holder::Pod(h.pod.clone())));
        peers.extend(book.former(half.peer).cloned().map(Holder::Pod));
        let peers: Vec<Holder> = peers.into_iter().collect();
        let from = machine.in_force();
        let passes = machine.kernel.passes(half);
        match self.history.says(passes, half, &own.pod, &peers, from) {
            Says::TooMany => self.tally.left_out += 1,
            Says::So => self.tally.judged += 1,
            Says::Never if !passes => self.tally.denied += 1,
            Says::Never => self.allowed(half, own, from),
        }
    }

    fn allowed(&self, half: &Half, own: &Holding, from: usize) {
        let end = self.sim.api.state().log.len();
        self.sim.wrong(format!(
            "{} on {} passes, and no state of the objects from place {from} to {end} allows it: {half:?}",
            own.pod, own.node
        ));
    }

    /// Nothing, or what is not as the objects say: to be asked when nothing changes any more.
    #[must_use]
    pub fn differs(&self) -> Option<String> {
        let (world, numbers) = self.world();
        let compiled = compile(&world, &numbers, &BTreeMap::new());
        for machine in self.machines.values() {
            let wanted = compiled.for_node(&machine.name);
            let Some(found) = machine.look(|e| of_rows(e.row_set(), &wanted)) else {
                return Some(format!("{}: no agent", machine.name));
            };
            let drift =
                machine.look(axoneme_node_agent::engine::Engine::drift).and_then(Result::ok).unwrap_or_default();
            let found = found.or_else(|| drift.first().cloned());
            if let Some(difference) = found {
                return Some(format!("{}: {difference}", machine.name));
            }
        }
        self.wrong_verdict(&world)
    }

    /// Every pair of pods, and every pod with the outside, by every port: exactly as the oracle says.
    fn wrong_verdict(&self, world: &World) -> Option<String> {
        let book = self.book.lock().unwrap();
        for (own, holding) in book.held() {
            let machine = self.machines.get(&holding.node)?;
            for peer in book.held().keys().chain(&OUTSIDE).filter(|p| *p != own) {
                for (protocol, port) in PORTS.iter().flat_map(|p| [(TCP, *p), (UDP, *p)]) {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let half = Half { direction, own: *own, peer: *peer, protocol, port };
                        let (passes, says) = (machine.kernel.passes(&half), oracle(world, &half));
                        if says != Some(passes) {
                            return Some(format!(
                                "{} on {}: {half:?} passes: {passes}, the oracle: {says:?}",
                                holding.pod, holding.node
                            ));
                        }
                    }
                }
            }
        }
        None
    }

    /// All objects as the model sees them, with the addresses that pods have, and the numbers of identities.
    fn world(&self) -> (World, Assignments) {
        let (mut cluster, mut numbers) = (Cluster::new(), Assignments::new());
        let state = self.sim.api.state();
        for (object, value) in &state.objects {
            let mut value = value.clone();
            slim(object.kind, &mut value);
            if object.kind == Kind::CiliumIdentity {
                if let Ok(Parsed::Identity(id, labels)) = parse_as(object.kind, &value, &cluster.settings.options()) {
                    let lower = numbers.get(&labels).is_none_or(|known| id < *known);
                    if lower {
                        numbers.insert(labels, id);
                    }
                }
                continue;
            }
            cluster.apply(SourceEvent::Apply { kind: object.kind, object: value });
        }
        drop(state);
        for (address, h) in self.book.lock().unwrap().held() {
            let key = (h.pod.namespace.clone(), h.pod.name.clone());
            cluster.report(&key, &h.uid, &BTreeSet::from([*address]), false);
        }
        let mut world = World::default();
        cluster.take_changes().into_iter().for_each(|c| apply(&mut world, c));
        (world, numbers)
    }
}

fn apply(world: &mut World, change: WorldChange) {
    fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
        match value {
            Some(v) => drop(map.insert(key, v)),
            None => drop(map.remove(&key)),
        }
    }
    match change {
        WorldChange::Config(c) => world.config = c,
        WorldChange::Namespace(k, v) => set(&mut world.namespaces, k, v),
        WorldChange::Pod(k, v) => set(&mut world.pods, k, v.map(|v| Pod::clone(&v))),
        WorldChange::Node(k, v) => set(&mut world.nodes, k, v.map(|v| *v)),
        WorldChange::Service(k, v) => set(&mut world.services, k, v.map(|v| *v)),
        WorldChange::CidrGroup(k, v) => set(&mut world.cidr_groups, k, v),
        WorldChange::Policy(k, v) => set(&mut world.policies, k, v.map(|v| *v)),
        WorldChange::ApiServer(a) => world.apiserver_addresses = a,
    }
}

/// How a node's rows differ from those that a fresh compile gives it.
fn of_rows(found: &RowSet, wanted: &RowSet) -> Option<String> {
    fn of<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
        what: &str,
        found: &BTreeMap<K, V>,
        wanted: &BTreeMap<K, V>,
    ) -> Option<String> {
        let differs = wanted.iter().find(|(k, v)| found.get(k) != Some(v));
        if let Some((k, v)) = differs {
            return Some(format!("{what} {k:?} is {:?}, should be {v:?}", found.get(k)));
        }
        let strange = found.iter().find(|(k, _)| !wanted.contains_key(k));
        strange.map(|(k, v)| format!("{what} {k:?} is {v:?}, should not be there"))
    }
    of("node", &found.nodes, &wanted.nodes)
        .or_else(|| of("identity", &found.identities, &wanted.identities))
        .or_else(|| of("table", &found.tables, &wanted.tables))
        .or_else(|| of("endpoint", &found.endpoints, &wanted.endpoints))
        .or_else(|| of("address", &found.ips, &wanted.ips))
        .or_else(|| of("rule", &found.rules, &wanted.rules))
}

//! While rows change, no packet meets a verdict that neither the state before nor the state after gives it: whatever of
//! addresses, classes, tables and rules changes in one batch, looked at after every single write to the kernel.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::{collections::BTreeMap, net::IpAddr};

use axoneme_cni::Command;
use axoneme_kernel::datapath::{Direction, PolicyKey, PolicyTable, peer_kind};
use axoneme_model::{
    Identity, PeerClass, Protocol,
    rows::{DirectionDefault, PolicyEntry, PolicyKey as ModelKey, RowSet, RuleId, TableId, TableRow},
};
use axoneme_node_agent::engine::Engine;
use axoneme_wire::{
    Resume, Row, RowChange, RowKey, TablePatch,
    client::{Batch, Event},
};
use common::*;
use ipnetwork::IpNetwork;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

const PODS: [&str; 2] = ["a", "b"];
const ELSEWHERE: [&str; 3] = ["10.0.2.1/32", "10.0.2.2/32", "10.0.2.3/32"];
const BLOCKS: [&str; 4] = ["172.16.0.0/12", "172.16.1.0/24", "172.16.1.7/32", "8.8.0.0/16"];
const CLASSES: [u32; 5] = [300, 301, 302, 303, 304];
const WORLDS: [u32; 4] = [2, 65_600, 65_601, 65_602];
const TABLES: [u64; 4] = [5, 6, 7, 8];
const PORTS: [u16; 2] = [80, 443];
/// Addresses that are asked about, besides the own pods': in each block, and in none.
const ASKED: [&str; 8] =
    ["10.0.2.1", "10.0.2.2", "10.0.2.3", "172.20.0.1", "172.16.1.1", "172.16.1.7", "8.8.8.8", "9.9.9.9"];

fn random_table(dice: &mut Dice, id: u64) -> TableRow {
    let mut row = table(id, 0..0);
    for default in [&mut row.ingress_default, &mut row.egress_default] {
        *default = DirectionDefault { allow: dice.percent(50), audit: false, rule: RuleId(7) };
    }
    for _ in 0..dice.below(14) {
        let peers: Vec<u32> = CLASSES.into_iter().chain(WORLDS).chain([252, 254, 0]).collect();
        let wide = dice.percent(40);
        let key = ModelKey {
            direction: dice.pick(&[axoneme_model::Direction::Ingress, axoneme_model::Direction::Egress]),
            peer: PeerClass(dice.pick(&peers)),
            protocol: (!wide).then_some(Protocol::TCP),
            port: if wide { 0 } else { dice.pick(&PORTS) },
            port_bits: if wide { 0 } else { 16 },
        };
        let rule = RuleId(dice.below(5) as u32 + 10);
        row.entries.insert(key, PolicyEntry { allow: dice.percent(50), audit: false, rule, proxy_port: 0, auth: 0 });
    }
    row
}

fn renumber(rows: &mut RowSet, from: u32, to: u32) {
    let (from, to) = (PeerClass(from), PeerClass(to));
    for table in rows.tables.values_mut() {
        table.entries.retain(|k, _| k.peer != to);
        let own: Vec<_> = table.entries.extract_if(.., |k, _| k.peer == from).collect();
        table.entries.extend(own.into_iter().map(|(k, v)| (ModelKey { peer: to, ..k }, v)));
    }
    let new = Identity(to.0);
    rows.ips.values_mut().filter(|r| r.peer == from).for_each(|r| (r.peer, r.identity) = (to, new));
    rows.endpoints.values_mut().filter(|e| e.peer == from).for_each(|e| (e.peer, e.identity) = (to, new));
}

/// Changes some of the rows.
fn mutate(dice: &mut Dice, rows: &mut RowSet) {
    for _ in 0..=dice.below(4) {
        match dice.below(7) {
            0 => {
                let row = ip_row(dice.pick(&ELSEWHERE), dice.pick(&CLASSES), "n2", "shop/x");
                rows.ips.insert(row.prefix, row);
            }
            1 => {
                let mut row = ip_row(dice.pick(&BLOCKS), dice.pick(&WORLDS), "", "");
                // what is outside has one identity, and classes by the blocks that rules name
                (row.identity, row.local_identity) = (Identity::WORLD, Identity::WORLD);
                if dice.percent(30) {
                    rows.ips.remove(&row.prefix);
                } else {
                    rows.ips.insert(row.prefix, row);
                }
            }
            2 => {
                let id = dice.pick(&TABLES);
                rows.tables.insert(TableId(id), random_table(dice, id));
            }
            3 => {
                let endpoint = rows.endpoints.get_mut(dice.pick(&PODS)).unwrap();
                let class = dice.pick(&CLASSES);
                (endpoint.identity, endpoint.peer) = (Identity(class), PeerClass(class));
            }
            4 => rows.endpoints.get_mut(dice.pick(&PODS)).unwrap().table = TableId(dice.pick(&TABLES)),
            // an identity is numbered anew: rules mean the same, by another class
            5 => {
                let (from, to) = (dice.pick(&CLASSES), dice.pick(&CLASSES));
                if rows.ips.values().all(|r| r.peer.0 != to) && rows.endpoints.values().all(|e| e.peer.0 != to) {
                    renumber(rows, from, to);
                }
            }
            // a class that many share is told apart, or many become one
            _ => {
                let (from, to) = (dice.pick(&CLASSES), dice.pick(&CLASSES));
                for row in rows.ips.values_mut().filter(|r| r.peer.0 == from) {
                    (row.peer, row.identity) = (PeerClass(to), Identity(to));
                }
            }
        }
    }
    // a node holds the tables of its own endpoints
    let used: Vec<TableId> = rows.endpoints.values().map(|e| e.table).collect();
    for id in used {
        rows.tables.entry(id).or_insert_with(|| random_table(dice, id.0));
    }
    let used: Vec<TableId> = rows.endpoints.values().map(|e| e.table).collect();
    rows.tables.retain(|id, _| used.contains(id));
}

/// What turns some rows into others.
fn difference(dice: &mut Dice, old: &RowSet, new: &RowSet) -> Vec<RowChange> {
    let mut out = vec![];
    for (id, row) in &new.tables {
        match old.tables.get(id) {
            Some(before) if before == row => {}
            Some(before) if dice.percent(80) => out.push(RowChange::Patch(TablePatch::between(before, row))),
            _ => out.push(RowChange::Upsert(Row::Table(row.clone().into()))),
        }
    }
    out.extend(
        new.ips
            .iter()
            .filter(|(k, v)| old.ips.get(k) != Some(v))
            .map(|(_, v)| RowChange::Upsert(Row::Ip(v.clone().into()))),
    );
    out.extend(
        new.endpoints
            .iter()
            .filter(|(k, v)| old.endpoints.get(*k) != Some(v))
            .map(|(_, v)| RowChange::Upsert(Row::Endpoint(v.clone().into()))),
    );
    out.extend(old.tables.keys().filter(|k| !new.tables.contains_key(k)).map(|k| RowChange::Remove(RowKey::Table(*k))));
    out.extend(old.ips.keys().filter(|k| !new.ips.contains_key(k)).map(|k| RowChange::Remove(RowKey::Ip(*k))));
    out
}

/// Changes, one a line.
fn short(changes: &[RowChange]) -> String {
    let lines: Vec<String> = changes.iter().map(|c| format!("{c:?}")).collect();
    lines.join("\n")
}

/// A packet: who is judged, in which direction, towards whom, at which port.
type Question = (IpAddr, Direction, IpAddr, u16);

fn questions(own: &[IpAddr]) -> Vec<Question> {
    let others: Vec<IpAddr> = ASKED.into_iter().map(ip).chain(own.iter().copied()).collect();
    let mut out = vec![];
    for pod in own {
        for other in others.iter().filter(|o| *o != pod) {
            for direction in [Direction::Ingress, Direction::Egress] {
                out.extend(PORTS.map(|port| (*pod, direction, *other, port)));
            }
        }
    }
    out
}

/// As the programs look it up.
fn judge(state: &Looked, (pod, direction, other, port): Question) -> bool {
    let own = &state.endpoints[&pod];
    let table: &PolicyTable = &state.tables[&own.slot];
    let held = |p: &&IpNetwork| p.contains(other);
    let block = || state.ips.keys().filter(held).max_by_key(|p| p.prefix()).map(|p| &state.ips[p]);
    let (identity, peer) = match state.endpoints.get(&other) {
        Some(e) => (e.identity, e.peer),
        None => block().map_or((2, 2), |e| (e.identity, e.peer)),
    };
    let kind = peer_kind(identity, false);
    let key = |peer, wide| PolicyKey {
        direction,
        peer,
        protocol: if wide { 0 } else { 6 },
        port: if wide { 0 } else { port },
        port_bits: if wide { 0 } else { 16 },
    };
    let entries: BTreeMap<_, _> = table.entries.iter().copied().collect();
    let peers = [Some(peer), (kind != 0).then_some(kind), Some(0)];
    let found =
        peers.into_iter().flatten().find_map(|p| entries.get(&key(p, false)).or_else(|| entries.get(&key(p, true))));
    let default = match direction {
        Direction::Ingress => table.ingress_default,
        Direction::Egress => table.egress_default,
    };
    found.map_or(default.allow, |v| v.allow)
}

struct Walk {
    node: Node,
    engine: Engine,
    rows: RowSet,
    revision: u64,
    own: Vec<IpAddr>,
    looked: usize,
}

impl Walk {
    fn new() -> Self {
        let node = Node::default();
        let mut engine = node.boot();
        let mut rows = rows();
        // addresses that nobody holds yet may be anything on the way to their first holder
        let elsewhere = ELSEWHERE.into_iter().map(|prefix| ip_row(prefix, 300, "n2", "shop/x"));
        rows.ips.extend(elsewhere.map(|row| (row.prefix, row)));
        engine.stream(snapshot(&rows, 1));
        for (container, pod) in ["c1", "c2"].into_iter().zip(PODS) {
            run(&mut engine, request(Command::Add, container, pod)).unwrap();
        }
        let own: Vec<IpAddr> = node.datapath.kernel().endpoints.keys().copied().collect();
        Self { node, engine, rows, revision: 1, own, looked: 0 }
    }

    fn verdicts(&self, state: &Looked) -> Vec<bool> {
        questions(&self.own).into_iter().map(|q| judge(state, q)).collect()
    }

    /// One batch of changes, told as deltas, or by a snapshot to a process that starts after one that died in between.
    fn step(&mut self, dice: &mut Dice, what: &str) {
        let mut new = self.rows.clone();
        mutate(dice, &mut new);
        let changes = difference(dice, &self.rows, &new);
        let before = self.node.datapath.look();
        self.node.datapath.kernel().history = Some(vec![]);
        self.revision += 1;
        let at = Resume { epoch: 1, revision: self.revision };
        let dies = dice.percent(15).then(|| i64::from(dice.below(8) as u32));
        if let Some(effects) = dies {
            self.node.fuse.arm(effects);
        }
        self.engine.stream(Event::Batch(Batch { at, complete: vec![], changes: changes.clone() }));
        if dies.is_some() {
            self.node.fuse.disarm();
            self.engine = self.node.boot();
            self.engine.stream(snapshot(&new, self.revision));
        }
        let mut history = self.node.datapath.kernel().history.take().unwrap();
        let after = self.node.datapath.look();
        history.push(after.clone());
        let (old, now) = (self.verdicts(&before), self.verdicts(&after));
        let log = self.node.datapath.kernel().log.clone();
        for (nth, state) in history.iter().enumerate() {
            for ((question, found), (old, now)) in
                questions(&self.own).into_iter().zip(self.verdicts(state)).zip(old.iter().zip(&now))
            {
                let writes = &log[log.len() - (history.len() - 1).min(log.len())..];
                assert!(
                    found == *old || found == *now,
                    "{what}: {question:?} before {old}, after {now}, but {found} after write {nth} of {writes:#?}\n{}",
                    short(&changes)
                );
            }
        }
        self.looked += history.len();
        self.rows = new;
        let writes = &log[log.len() - (history.len() - 1).min(log.len())..];
        self.is_as_wanted(&format!("{what}, dies {dies:?}, {writes:#?}\n{}", short(&changes)));
    }

    /// The kernel judges as the rows do, and nothing is left over.
    fn is_as_wanted(&self, what: &str) {
        let state = self.node.datapath.look();
        for (uid, pod) in PODS.iter().zip(&self.own) {
            let row = &self.rows.endpoints[*uid];
            let entry = state.endpoints[pod];
            assert_eq!((entry.identity, entry.peer), (row.identity.0, row.peer.0), "{what}: {uid}");
            let wanted = &self.rows.tables[&row.table];
            let found = &state.tables[&entry.slot];
            assert_eq!(found.entries.len(), wanted.entries.len(), "{what}: table of {uid}");
            assert_eq!(found.ingress_default.allow, wanted.ingress_default.allow, "{what}: table of {uid}");
        }
        assert_eq!(state.tables.len(), self.rows.tables.len(), "{what}: tables are left over");
        let blocks = |p: &&IpNetwork| !self.own.contains(&p.ip());
        let found: Vec<_> = state.ips.keys().filter(blocks).copied().collect();
        assert_eq!(found, self.rows.ips.keys().copied().collect::<Vec<_>>(), "{what}: prefixes");
    }
}

#[test]
fn no_packet_meets_a_verdict_of_neither_state_while_rows_change() {
    #[expect(clippy::disallowed_methods, reason = "how long a test runs is for whoever runs it")]
    let seeds = std::env::var("AXONEME_TRANSITIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut looked = 0;
    for seed in 1..=seeds {
        let dice = &mut Dice(seed * 0x9e37_79b9);
        let mut walk = Walk::new();
        for step in 0..40 {
            walk.step(dice, &format!("seed {seed}, step {step}"));
        }
        looked += walk.looked;
    }
    assert!(looked as u64 > seeds * 100, "only {looked} states were there to look at");
}

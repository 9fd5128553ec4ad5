//! What holds while things change: identities that move, tables that are patched.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::collections::BTreeSet;

use axoneme_compile::{ChangeSet, Compiler, Event, TableChange, TablePatch, events};
use axoneme_model::{
    Action, DirectedRule, Direction, Identity, Kind, LabelKey, ObjectRef, Peer, PeerClass, Peers, Policy, Ports,
    Protocol, Requirement, Rule, Selector, Subject, Tier, World,
    lookup::Whom,
    rows::{PolicyEntry, TableRow},
    world::{Namespace, PlainLabels, Pod},
};
use common::{
    random::{self, Rng},
    rig::{Rig, mutation},
};

/// Peers and ports at which something may differ between two tables.
fn lookups(a: &TableRow, b: &TableRow) -> Vec<(Direction, Whom, Protocol, u16)> {
    let keys: BTreeSet<_> = a.entries.keys().chain(b.entries.keys()).collect();
    let classes = keys.iter().map(|k| k.peer).filter(|p| p.level() == 2).chain([PeerClass(7)]);
    let kinds: BTreeSet<_> = keys.iter().map(|k| k.peer).filter(|p| p.level() == 1).map(Some).chain([None]).collect();
    let peers: BTreeSet<Whom> = classes.flat_map(|class| kinds.iter().map(move |k| Whom { class, kind: *k })).collect();
    let mut ports: BTreeSet<(Protocol, u16)> = BTreeSet::from([(Protocol(99), 0), (Protocol::TCP, 4000)]);
    for key in &keys {
        let end = key.port | (u16::MAX.checked_shr(u32::from(key.port_bits)).unwrap_or(0));
        ports.extend(key.protocol.into_iter().flat_map(|p| [(p, key.port), (p, end), (p, end.wrapping_add(1))]));
    }
    let directions = [Direction::Ingress, Direction::Egress];
    let pairs = directions.into_iter().flat_map(|d| peers.iter().map(move |p| (d, *p)));
    pairs.flat_map(|(d, peer)| ports.iter().map(move |(p, port)| (d, peer, *p, *port))).collect()
}

/// Applies a patch entry by entry and looks at the table after every step.
fn walk(before: &TableRow, after: &TableRow, patch: &TablePatch) {
    let lookups = lookups(before, after);
    let judge = |t: &TableRow| -> Vec<PolicyEntry> { lookups.iter().map(|l| t.judge(l.0, l.1, l.2, l.3)).collect() };
    let (old, new) = (judge(before), judge(after));
    let mut table = before.clone();
    let look = |table: &TableRow| {
        for (i, found) in judge(table).into_iter().enumerate() {
            let allowed = [old[i].allow, new[i].allow];
            assert!(allowed.contains(&found.allow), "{:?} gives a third verdict on the way\n{patch:#?}", lookups[i]);
        }
    };
    for (key, entry) in &patch.upserts {
        table.entries.insert(*key, *entry);
        look(&table);
    }
    table.ingress_default = patch.ingress_default.unwrap_or(table.ingress_default);
    look(&table);
    table.egress_default = patch.egress_default.unwrap_or(table.egress_default);
    look(&table);
    for key in &patch.removals {
        table.entries.remove(key);
        look(&table);
    }
    assert_eq!(table.entries, after.entries);
}

#[test]
fn a_patch_gives_no_third_verdict_at_any_step() {
    let mut patches = 0;
    for seed in 0..30 {
        let rng = &mut Rng(seed ^ 0x9A7C);
        let world = random::world(rng);
        let mut rig = Rig::new(&world);
        rig.apply(events(world).collect());
        rig.number(rng, 100);
        for _ in 0..15 {
            let before = rig.compiler.compiled().rows.tables;
            let event = mutation(&rig.compiler.world(), rng);
            let changes = rig.apply(vec![event]);
            for (id, change) in &changes.tables {
                if let TableChange::Patch(patch) = change {
                    walk(&before[id], &rig.compiler.table(*id).unwrap(), patch);
                    patches += 1;
                }
            }
            rig.number(rng, 100);
        }
    }
    assert!(patches > 200, "only {patches} patches were there to walk");
}

fn pod(name: &str, labels: &[(&str, &str)]) -> Event {
    let pod = Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: name.into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        annotations: PlainLabels::new(),
        service_account: "default".into(),
        node: "n1".into(),
        addresses: axoneme_model::PackedSet::new(),
        named_ports: axoneme_model::PackedMap::new(),
    };
    Event::Pod(("shop".into(), name.into()), Some(pod.into()))
}

/// Whoever has the label may (or may not) reach pods of app db.
fn about(label: &str, value: &str, action: Action) -> Event {
    let select = |k: &str, v: &str| Selector::new(vec![Requirement::equals(LabelKey::k8s(k), v)]);
    let entry = DirectedRule {
        path: "spec.ingress[0]".into(),
        action,
        peers: Peers::OneOf(vec![Peer::Endpoints(select(label, value))]),
        ports: Ports::Any,
    };
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "shop", "about");
    let rule = Rule {
        subject: Subject::Endpoints(select("app", "db")),
        log: None,
        isolates_ingress: action == Action::Allow,
        isolates_egress: false,
        ingress: vec![entry],
        egress: vec![],
    };
    let policy = Policy { object: object.clone(), generation: 1, tier: Tier::Normal, audit: false, rules: vec![rule] };
    Event::Policy(object, Some(policy))
}

fn number_all(compiler: &mut Compiler, first: u32) -> ChangeSet {
    let numbers = compiler.unnumbered().into_iter().zip(first..);
    let events: Vec<Event> = numbers.map(|(l, n)| Event::Assignment(l, Some(Identity(n)))).collect();
    compiler.apply(events)
}

fn identity(compiler: &Compiler, pod: &str) -> Option<Identity> {
    compiler.compiled().rows.endpoints.get(pod).map(|e| e.identity)
}

/// What the table of `db` says about whoever has this identity.
fn db_allows(compiler: &Compiler, peer: Identity) -> bool {
    let rows = compiler.compiled().rows;
    let table = &rows.tables[&rows.endpoints["db"].table];
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    table.judge(Direction::Ingress, Whom::new((peer, peer.into()), address), Protocol::TCP, 80).allow
}

fn start() -> Compiler {
    let mut compiler = Compiler::new(World::default().config);
    let namespace = Event::Namespace("shop".into(), Some(Namespace::default()));
    compiler.apply([
        namespace,
        pod("db", &[("app", "db"), ("colour", "red")]),
        pod("red", &[("app", "web"), ("colour", "red")]),
        pod("blue", &[("app", "web"), ("colour", "blue")]),
        about("app", "web", Action::Allow),
    ]);
    compiler
}

#[test]
fn a_pod_without_a_number_has_no_endpoint_row() {
    let mut compiler = start();
    assert_eq!(identity(&compiler, "red"), None);
    number_all(&mut compiler, 300);
    assert!(identity(&compiler, "red").is_some());
    assert_eq!(identity(&compiler, "red"), identity(&compiler, "blue"), "no rule reads the colour");
}

#[test]
fn pods_keep_their_identity_until_the_one_they_ask_for_has_a_number() {
    for (action, while_in_doubt) in [(Action::Allow, false), (Action::Deny, false)] {
        let mut compiler = start();
        number_all(&mut compiler, 300);
        let before = identity(&compiler, "red").unwrap();
        assert!(db_allows(&compiler, before));
        // now a rule reads the colour: red and blue still share their identity
        compiler.apply([about("colour", "red", action)]);
        assert_eq!(identity(&compiler, "red"), Some(before));
        assert_eq!(identity(&compiler, "blue"), Some(before));
        assert_eq!(compiler.held().len(), 3);
        let (asked, had): (Vec<_>, Vec<_>) =
            (compiler.unnumbered().into_iter().collect(), compiler.held().into_values().collect());
        assert!(!asked.is_empty() && asked.iter().all(|set| compiler.moves_to(set)), "pods wait for these");
        assert!(
            had.iter().all(|(number, set)| compiler.uses(set, *number) && !compiler.moves_to(set)),
            "and have those"
        );
        // what is meant for some of them: an allow not before it means all, a deny at once
        assert_eq!(db_allows(&compiler, before), while_in_doubt, "{action:?}");
        let changes = number_all(&mut compiler, 400);
        assert!(compiler.held().is_empty() && !asked.iter().any(|set| compiler.moves_to(set)));
        let (red, blue) = (identity(&compiler, "red").unwrap(), identity(&compiler, "blue").unwrap());
        assert!(red != blue && red != before);
        assert_eq!(db_allows(&compiler, red), action == Action::Allow);
        assert_eq!(db_allows(&compiler, blue), action == Action::Deny);
        assert_eq!(changes.identities.get(&before).map(|c| c.after.is_none()), Some(true));
        assert!(compiler.unused().values().any(|n| *n == before), "the old number may be taken back");
        assert!(had.iter().all(|(number, set)| !compiler.uses(set, *number)));
    }
}

#[test]
fn a_new_pod_of_the_same_name_keeps_nothing() {
    let mut compiler = start();
    number_all(&mut compiler, 300);
    let Event::Pod(key, Some(mut again)) = pod("red", &[("app", "other")]) else { unreachable!() };
    std::sync::Arc::make_mut(&mut again).uid = "red-again".into();
    compiler.apply([Event::Pod(key, Some(again))]);
    assert_eq!(identity(&compiler, "red"), None);
    assert_eq!(identity(&compiler, "red-again"), None);
}

#[test]
fn what_undoes_itself_changes_nothing() {
    let mut compiler = start();
    number_all(&mut compiler, 300);
    let object = ObjectRef::new(Kind::CiliumNetworkPolicy, "shop", "about");
    let changes = compiler.apply([Event::Policy(object, None), about("app", "web", Action::Allow)]);
    assert_eq!(changes, ChangeSet::default());
}

#[test]
fn a_log_changes_what_rules_say_and_nothing_that_a_kernel_holds() {
    let mut compiler = start();
    number_all(&mut compiler, 300);
    let Event::Policy(object, Some(mut policy)) = about("app", "web", Action::Allow) else { unreachable!() };
    let logs = |compiler: &Compiler| -> Vec<Option<String>> {
        let rows = compiler.for_node("n1").rules;
        rows.values().filter(|r| r.rule.object == object).map(|r| r.log.as_deref().map(str::to_owned)).collect()
    };
    assert!(!logs(&compiler).is_empty() && logs(&compiler).iter().all(Option::is_none));
    for log in [Some("PCI 4.1"), Some("PCI 4.2"), None] {
        policy.generation += 1;
        policy.rules[0].log = log.map(Into::into);
        let changes = compiler.apply([Event::Policy(object.clone(), Some(policy.clone()))]);
        assert!(logs(&compiler).iter().all(|l| l.as_deref() == log), "{:?}", logs(&compiler));
        let rules: Vec<_> = changes.rules.values().map(|c| c.after.as_ref().unwrap().log.as_deref()).collect();
        assert!(!rules.is_empty() && rules.iter().all(|l| *l == log), "{rules:?}");
        let told = compiler.changes_for(&changes, "n1");
        assert!(told.rules.len() >= rules.len(), "the node is told: {told:?}");
        // the generation that is enforced is all that is new of a table, and in no map
        for patch in told.patches {
            let only = TablePatch { id: patch.id, policies: patch.policies.clone(), ..TablePatch::default() };
            assert_eq!(patch, only);
        }
        let rest = ChangeSet { rules: changes.rules.clone(), tables: changes.tables.clone(), ..ChangeSet::default() };
        assert_eq!(changes, rest);
    }
}

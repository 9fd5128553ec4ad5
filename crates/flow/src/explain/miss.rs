//! The nearest miss: what the rules that do allow something would have needed.

use std::collections::{BTreeMap, BTreeSet};

use axoneme_model::{
    Direction, Identity, PeerClass,
    lookup::Whom,
    rows::{PolicyEntry, PolicyKey, RuleId, TableRow},
};

use super::{Judge, class_name, levels, mask, ports, rule};

/// Misses that are told.
const TOLD: usize = 3;
/// Ports of a rule that are told.
const PORTS: usize = 4;

/// Sentences, the nearest first: the right peer at another port, then another peer at the right port, and where there
/// is neither, what is allowed at all.
pub(super) fn nearest(
    judge: &Judge<'_>,
    table: &TableRow,
    direction: Direction,
    whom: Whom,
    peer: &str,
) -> Vec<String> {
    let allowed = |key: &PolicyKey, entry: &PolicyEntry| key.direction == direction && entry.allow;
    let entries: Vec<_> = table.entries.iter().filter(|(k, e)| allowed(k, e)).collect();
    let mut out = other_ports(judge, &entries, whom);
    out.extend(other_peers(judge, &entries, whom, direction, peer));
    if out.is_empty() {
        let of = if direction == Direction::Ingress { "from" } else { "to" };
        let mut rules: BTreeMap<RuleId, String> = BTreeMap::new();
        for (key, entry) in entries.iter().filter(|(_, e)| e.rule != RuleId::default()) {
            rules.entry(entry.rule).or_insert_with(|| {
                let (name, whom) = (rule(judge.rows, entry.rule), class_name(judge.rows, key.peer));
                format!("{name} allows {} {of} {whom}", ports(key))
            });
        }
        out.extend(rules.into_values());
    }
    out.truncate(TOLD);
    out
}

type Entries<'a> = [(&'a PolicyKey, &'a PolicyEntry)];

/// `NetworkPolicy web/api spec.ingress[0] allows TCP 8443, not TCP 8080`.
fn other_ports(judge: &Judge<'_>, entries: &Entries<'_>, whom: Whom) -> Vec<String> {
    let levels = levels(whom);
    let mut by_rule: BTreeMap<RuleId, Vec<&PolicyKey>> = BTreeMap::new();
    for (key, entry) in entries.iter().filter(|(k, _)| levels.contains(&k.peer)) {
        by_rule.entry(entry.rule).or_default().push(key);
    }
    let distance = |key: &PolicyKey| {
        let other_protocol = key.protocol != Some(judge.protocol);
        (other_protocol, key.port.abs_diff(judge.port))
    };
    let mut rules: Vec<_> = by_rule.into_iter().filter(|(id, _)| *id != RuleId::default()).collect();
    for (_, keys) in &mut rules {
        keys.sort_by_key(|k| distance(k));
    }
    rules.sort_by_key(|(_, keys)| keys.first().map(|k| distance(k)));
    rules
        .iter()
        .map(|(id, keys)| {
            let told: Vec<String> = keys.iter().take(PORTS).map(|k| ports(k)).collect();
            let more = if keys.len() > PORTS { ", …" } else { "" };
            let asked = PolicyKey {
                direction: Direction::Ingress,
                peer: PeerClass::ANY,
                protocol: Some(judge.protocol),
                port: judge.port,
                port_bits: 16,
            };
            format!("{} allows {}{more}, not {}", rule(judge.rows, *id), told.join(", "), ports(&asked))
        })
        .collect()
}

/// `NetworkPolicy web/api spec.ingress[0] allows it to k8s:app=web; lab/probe lacks k8s:app=web`.
fn other_peers(judge: &Judge<'_>, entries: &Entries<'_>, whom: Whom, direction: Direction, peer: &str) -> Vec<String> {
    let levels = levels(whom);
    let fits = |key: &PolicyKey| match key.protocol {
        None => true,
        Some(protocol) => protocol == judge.protocol && judge.port & mask(key.port_bits) == key.port,
    };
    let mine = labels(judge, whom.class);
    // of each rule the peer whose labels differ least
    let mut best: BTreeMap<RuleId, (usize, String)> = BTreeMap::new();
    for (key, entry) in entries.iter().filter(|(k, _)| !levels.contains(&k.peer) && fits(k)) {
        let theirs = labels(judge, key.peer);
        let lacks: Vec<&str> = theirs.difference(&mine).map(String::as_str).collect();
        let said = if theirs.is_empty() || lacks.is_empty() || mine.is_empty() {
            String::new()
        } else {
            format!("; {peer} lacks {}", lacks.join(", "))
        };
        let of = if direction == Direction::Ingress { "from" } else { "to" };
        let sentence =
            format!("{} allows it {of} {}{said}", rule(judge.rows, entry.rule), class_name(judge.rows, key.peer));
        let distance = if theirs.is_empty() { usize::MAX } else { theirs.symmetric_difference(&mine).count() };
        let kept = best.entry(entry.rule).or_insert((usize::MAX, sentence.clone()));
        if distance < kept.0 {
            *kept = (distance, sentence);
        }
    }
    let mut told: Vec<_> = best.into_iter().filter(|(id, _)| *id != RuleId::default()).map(|(_, told)| told).collect();
    told.sort();
    told.into_iter().map(|(_, sentence)| sentence).collect()
}

fn labels(judge: &Judge<'_>, class: PeerClass) -> BTreeSet<String> {
    let identity = if class.0 < PeerClass::FIRST_COMPOSED {
        Some(Identity(class.0))
    } else {
        judge.rows.ips.values().find(|r| r.peer == class).map(|r| r.identity)
    };
    let row = identity.and_then(|i| judge.rows.identities.get(&i));
    row.map(|r| r.labels.to_strings().into_iter().collect()).unwrap_or_default()
}

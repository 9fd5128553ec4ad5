//! The tables of subjects, before and after, on all peers that they tell apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use axoneme_model::{
    Cidr, Direction, Identity, PeerClass, cidr,
    lookup::Whom,
    rows::{EndpointRow, IpRow, RowSet, RuleId, TableId, TableRow},
};

use crate::{
    Counts, Limits, Line, Preview,
    part::Part,
    ports::{Difference, End, difference},
};

/// A table before and after, and which families the pods have: IPv4, IPv6.
type GroupKey = (TableId, TableId, (bool, bool));
/// Subjects that share these.
type Group<'a> = BTreeMap<GroupKey, Vec<&'a EndpointRow>>;

/// Whom tables take a peer for, before and after; and whether it is the pod's own node.
type Sight = (Whom, Whom, bool);

pub(crate) fn compare(part: &Part, limits: &Limits, preview: &mut Preview) {
    let groups = groups(part);
    let tables = |rows: &RowSet, id: fn(&GroupKey) -> TableId| {
        let ids: BTreeSet<TableId> = groups.keys().map(id).collect();
        ids.iter().filter_map(|id| rows.tables.get(id)).map(|t| t.entries.len()).sum()
    };
    preview.entries = Counts { before: tables(&part.before, |g| g.0), after: tables(&part.after, |g| g.1) };
    let peers = peers(part);
    let mut lines = Lines::new();
    let mut left = limits.pairs;
    for ((before, after, families), subjects) in &groups {
        let (Some(before), Some(after)) = (part.before.tables.get(before), part.after.tables.get(after)) else {
            continue;
        };
        let seen = peers.iter().filter(|((_, v6), _)| if *v6 { families.1 } else { families.0 });
        for ((sight, _), who) in seen {
            if left == 0 {
                break;
            }
            left -= 1;
            pair(part, (before, after), subjects, (sight, who), &mut lines);
        }
    }
    if left == 0 {
        preview.caveats.push(format!("only the first {} pairs of tables and peers are compared", limits.pairs));
    }
    preview.affected = lines.keys().flat_map(|(pods, ..)| pods).collect::<BTreeSet<_>>().len();
    preview.more = lines.len().saturating_sub(limits.lines);
    preview.lines = lines.into_iter().take(limits.lines).map(|(key, found)| line(part, key, found, limits)).collect();
}

/// What differs for the subjects of two tables about one kind of peer.
fn pair(
    part: &Part,
    (before, after): (&TableRow, &TableRow),
    subjects: &[&EndpointRow],
    ((whom, will_be, own_host), who): (&Sight, &BTreeSet<String>),
    lines: &mut Lines,
) {
    // a pod may always talk to itself
    let itself = |name: &String| who.len() == 1 && who.contains(name);
    let pods: BTreeSet<String> = subjects.iter().map(|s| name(s)).filter(|n| !itself(n)).collect();
    if pods.is_empty() {
        return;
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        if *own_host && part.own_host && direction == Direction::Ingress {
            continue;
        }
        let found = difference(direction, End { table: before, whom: *whom }, End { table: after, whom: *will_be });
        if found == Difference::default() {
            continue;
        }
        let line = lines.entry((pods.clone(), direction, found.gains, found.loses)).or_default();
        // of several pods each is a peer of the others
        let alone = |name: &&String| pods.len() > 1 || !pods.contains(*name);
        line.peers.extend(who.iter().filter(alone).cloned());
        line.rules.extend(found.rules);
    }
}

/// Lines by what they share.
type Lines = BTreeMap<LineKey, Found>;
type LineKey = (BTreeSet<String>, Direction, Vec<String>, Vec<String>);

#[derive(Debug, Default)]
struct Found {
    peers: BTreeSet<String>,
    rules: BTreeSet<RuleId>,
}

fn line(part: &Part, (pods, direction, gains, loses): LineKey, found: Found, limits: &Limits) -> Line {
    let rule = |id: &RuleId| part.after.rules.get(id).map(|row| row.rule.to_string());
    let direction = if direction == Direction::Ingress { "ingress" } else { "egress" };
    let (pod_count, peer_count) = (pods.len(), found.peers.len());
    Line {
        pods: pods.into_iter().take(limits.names).collect(),
        pod_count,
        direction: direction.to_owned(),
        peers: found.peers.into_iter().take(limits.names).collect(),
        peer_count,
        gains,
        loses,
        rules: found.rules.iter().filter_map(rule).collect(),
    }
}

fn name(endpoint: &EndpointRow) -> String {
    format!("{}/{}", endpoint.namespace, endpoint.name)
}

fn groups(part: &Part) -> Group<'_> {
    let mut groups = Group::new();
    let mut own: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for row in part.after.ips.values().filter(|r| !r.pod.is_empty()) {
        let (v4, v6) = own.entry(&row.pod).or_default();
        *(if row.prefix.is_ipv6() { v6 } else { v4 }) = true;
    }
    for after in part.after.endpoints.values() {
        let key = (after.namespace.clone(), after.name.clone());
        let Some(before) = part.before.endpoints.get(&after.uid).filter(|_| part.subjects.contains(&key)) else {
            continue;
        };
        let of = own.get(&*name(after)).copied();
        // a pod without an address yet may get one of either family
        let families = of.unwrap_or((true, true));
        groups.entry((before.table, after.table, families)).or_default().push(after);
    }
    groups
}

/// All peers by how tables see them before and after, and their family.
fn peers(part: &Part) -> BTreeMap<(Sight, bool), BTreeSet<String>> {
    let prefixes: BTreeSet<Cidr> = part.before.ips.keys().chain(part.after.ips.keys()).copied().collect();
    let mut peers: BTreeMap<(Sight, bool), BTreeSet<String>> = BTreeMap::new();
    for prefix in prefixes {
        let (Some(before), Some(after)) = (row(&part.before, prefix), row(&part.after, prefix)) else { continue };
        let address = prefix.ip();
        let mut add = |was: (Identity, PeerClass), is: (Identity, PeerClass), own_host| {
            let sight = (whom(was, address), whom(is, address), own_host);
            peers.entry((sight, prefix.is_ipv6())).or_default().insert(named(after, is.0, prefix));
        };
        add((before.identity, before.peer), (after.identity, after.peer), false);
        if after.identity != after.local_identity {
            add((before.local_identity, before.local_peer), (after.local_identity, after.local_peer), true);
        }
    }
    peers
}

fn whom(is: (Identity, PeerClass), address: IpAddr) -> Whom {
    Whom::new(is, address)
}

/// The row of the longest prefix that holds all of this one: what its first address is may be told by a narrower one.
fn row(rows: &RowSet, prefix: Cidr) -> Option<&IpRow> {
    (0..=prefix.prefix()).rev().find_map(|bits| rows.ips.get(&cidr::normalise(Cidr::new(prefix.ip(), bits).ok()?)))
}

/// `namespace/pod`, or the prefix with what it is.
fn named(row: &IpRow, identity: Identity, prefix: Cidr) -> String {
    if !row.pod.is_empty() {
        return row.pod.to_string();
    }
    identity.reserved_name().map_or_else(|| prefix.to_string(), |name| format!("{name} {prefix}"))
}

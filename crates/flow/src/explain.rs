//! Why a connection passes or not, by the very rows that a node runs by.
//!
//! ```text
//!  Question ─▶ ends (address, pod) ─▶ each end that is a pod here ─▶ its table ─▶ entry or default ─▶ rule
//!                                                                              └─▶ nearest misses
//! ```
//!
//! The rows are those of a node (then the other node's end is not judged here), or of a whole cluster as the compiler
//! makes them of manifests. Lookup is [`TableRow::find`], which the compiler's tests hold against the reference.
//! *Errors* are sentences for the one who asked: what is not known, and what there is.

mod coverage;
mod miss;
mod reach;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use axoneme_model::{
    Direction, Identity, PeerClass, Protocol,
    lookup::{Whom, mask},
    rows::{EndpointRow, PolicyEntry, PolicyKey, RowSet, RuleId, TableRow},
};
use serde::{Deserialize, Serialize};

pub use coverage::{Coverage, PodCoverage, coverage};
pub use reach::{Access, Group, who_can};

/// Names that an error lists at most.
const CHOICES: usize = 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `namespace/pod` or an address.
    pub source: String,
    /// The same, or the address of a service.
    pub destination: String,
    pub protocol: Protocol,
    /// Port, or type of ICMP.
    pub port: u16,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    pub source: EndView,
    pub destination: EndView,
    pub protocol: String,
    pub port: u16,
    /// Whether no end that is judged here says no.
    pub allow: bool,
    pub sides: Vec<SideView>,
    /// What is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caveats: Vec<String>,
}

/// An end of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndView {
    pub address: String,
    /// `namespace/name`; empty: no pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    pub identity: u32,
    pub labels: Vec<String>,
}

/// What one end's policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SideView {
    /// `egress` of the source or `ingress` of the destination.
    pub direction: String,
    pub pod: String,
    pub allow: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// `Kind namespace/name path`; empty: no rule decides.
    pub rule: String,
    /// What the rule has to say (`log.value`); empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// The table that says so, sixteen hex digits.
    pub table: String,
    /// The entry of the table that decided; empty: its default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub entry: String,
    /// What would have had to be different.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<String>,
}

impl Question {
    /// As the part of a URL behind the question mark.
    #[must_use]
    pub fn to_url(&self) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        out.append_pair("source", &self.source).append_pair("destination", &self.destination);
        out.append_pair("protocol", &self.protocol.0.to_string()).append_pair("port", &self.port.to_string());
        out.finish()
    }

    /// Back again.
    pub fn from_url(text: &str) -> Result<Self, String> {
        let mut question =
            Self { source: String::new(), destination: String::new(), protocol: Protocol::TCP, port: 80 };
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let bad = |what: &str| format!("{name}={value}: not a {what}");
            match &*name {
                "source" => question.source = value.into_owned(),
                "destination" => question.destination = value.into_owned(),
                "protocol" => question.protocol = Protocol(value.parse().map_err(|_| bad("protocol number"))?),
                "port" => question.port = value.parse().map_err(|_| bad("port"))?,
                _ => return Err(format!("{name}: there are source, destination, protocol and port")),
            }
        }
        match [("source", &question.source), ("destination", &question.destination)].iter().find(|f| f.1.is_empty()) {
            Some((name, _)) => Err(format!("{name} is missing: namespace/pod or an address")),
            None => Ok(question),
        }
    }
}

/// The `target` of a question who may connect to it, of the part of a URL behind the question mark.
pub fn target_from_url(text: &str) -> Result<String, String> {
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    let target = pairs.find(|(name, value)| name == "target" && !value.is_empty());
    target.map(|(_, value)| value.into_owned()).ok_or_else(|| "target is missing: namespace/pod".to_owned())
}

/// The other way round.
#[must_use]
pub fn target_to_url(target: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("target", target).finish()
}

/// Answers the question. `own_host`: whether a pod's own node may always reach it.
pub fn explain(rows: &RowSet, own_host: bool, question: &Question) -> Result<Explanation, String> {
    let (protocol, mut port) = (question.protocol, question.port);
    let mut caveats = Vec::new();
    let sources = ends(rows, "source", &question.source)?;
    let destinations = match backend(rows, question, &mut caveats)? {
        Some((address, its_port)) => {
            port = its_port;
            vec![End::at(rows, address)]
        }
        None => ends(rows, "destination", &question.destination)?,
    };
    let mut pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (s, d)));
    let Some((source, destination)) = pairs.find(|(s, d)| s.address.is_ipv4() == d.address.is_ipv4()) else {
        return Err("source and destination are of different address families: nothing can pass between them".into());
    };
    let judge = Judge { rows, own_host, protocol, port };
    let sides: Vec<SideView> = [
        source.endpoint.map(|e| judge.side(Direction::Egress, e, source, destination)),
        destination.endpoint.map(|e| judge.side(Direction::Ingress, e, destination, source)),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (end, word) in [(source, "egress"), (destination, "ingress")] {
        if end.endpoint.is_none() && !end.pod.is_empty() {
            caveats.push(format!("{word} of {} is judged on {}: ask there for its part", end.pod, end.node));
        }
    }
    Ok(Explanation {
        source: source.view(rows),
        destination: destination.view(rows),
        protocol: protocol.to_string(),
        port,
        allow: sides.iter().all(|s| s.allow),
        sides,
        caveats,
    })
}

/// An end with what the rows know of it.
#[derive(Clone, Debug)]
struct End<'a> {
    address: IpAddr,
    pod: &'a str,
    node: &'a str,
    endpoint: Option<&'a EndpointRow>,
}

impl<'a> End<'a> {
    fn at(rows: &'a RowSet, address: IpAddr) -> Self {
        let row = rows.find_ip(address);
        let pod = row.map_or("", |r| &*r.pod);
        let by_name = |e: &&EndpointRow| {
            e.addresses.contains(&address)
                || pod.split_once('/').is_some_and(|(ns, n)| *e.namespace == *ns && *e.name == *n)
        };
        let endpoint = rows.endpoints.values().find(by_name);
        let node = endpoint.map(|e| &*e.node).or(row.map(|r| &*r.node)).unwrap_or_default();
        Self { address, pod, node, endpoint }
    }

    /// Whom others' tables take it for, as `node` sees it.
    fn whom(&self, rows: &RowSet, node: &str) -> (Identity, Whom) {
        let (identity, class) = match (rows.find_ip(self.address), self.endpoint) {
            // its address has no row yet
            (Some(row), Some(e)) if row.pod.is_empty() => (e.identity, e.peer),
            (None, Some(e)) => (e.identity, e.peer),
            _ => rows.peer_of(self.address, node),
        };
        (identity, Whom::new((identity, class), self.address))
    }

    fn name(&self) -> String {
        if self.pod.is_empty() { self.address.to_string() } else { self.pod.to_owned() }
    }

    fn view(&self, rows: &RowSet) -> EndView {
        let (identity, _) = self.whom(rows, self.node);
        let labels = match self.endpoint {
            Some(e) => e.labels.to_strings(),
            None => rows.identities.get(&identity).map(|i| i.labels.to_strings()).unwrap_or_default(),
        };
        EndView {
            address: self.address.to_string(),
            pod: self.pod.to_owned(),
            node: self.node.to_owned(),
            identity: identity.0,
            labels,
        }
    }
}

/// The addresses of an end: as given, or those of the pod.
fn ends<'a>(rows: &'a RowSet, field: &str, text: &str) -> Result<Vec<End<'a>>, String> {
    if let Ok(address) = text.parse() {
        return Ok(vec![End::at(rows, address)]);
    }
    let name = if text.contains('/') { text.to_owned() } else { format!("default/{text}") };
    let mut found: Vec<IpAddr> = rows.ips.values().filter(|r| *r.pod == *name).map(|r| r.prefix.ip()).collect();
    let is_it = |e: &&EndpointRow| format!("{}/{}", e.namespace, e.name) == name;
    let endpoint = rows.endpoints.values().find(is_it);
    found.extend(
        endpoint.iter().flat_map(|e| e.addresses.iter().copied()).filter(|a| !found.contains(a)).collect::<Vec<_>>(),
    );
    if !found.is_empty() {
        return Ok(found.into_iter().map(|address| End::at(rows, address)).collect());
    }
    if endpoint.is_some() {
        return Err(format!("{field} {name} has no address yet"));
    }
    let mut known: Vec<&str> = rows.ips.values().map(|r| &*r.pod).filter(|p| !p.is_empty()).collect();
    known.sort_unstable();
    known.dedup();
    let more = if known.len() > CHOICES { ", …" } else { "" };
    known.truncate(CHOICES);
    let choices =
        if known.is_empty() { "no pod is known".to_owned() } else { format!("there are {}", known.join(", ")) };
    Err(format!("{field} {text:?}: neither an address nor a pod; {choices}{more}"))
}

/// Where a service sends the connection; none: the destination is no service's address.
fn backend(rows: &RowSet, q: &Question, caveats: &mut Vec<String>) -> Result<Option<(IpAddr, u16)>, String> {
    let Ok(address) = q.destination.parse::<IpAddr>() else { return Ok(None) };
    for service in rows.services.values() {
        let front = service.frontends.iter().find(|f| (f.address, f.protocol, f.port) == (address, q.protocol, q.port));
        let Some(front) = front else { continue };
        let name = format!("service {}/{}", service.namespace, service.name);
        let Some(first) = front.backends.iter().find(|b| !b.terminating).or(front.backends.first()) else {
            return Err(format!("{name} has no backends: connections to {address}:{} are rejected", q.port));
        };
        let to = std::net::SocketAddr::new(first.address, first.port);
        caveats.push(format!("{name} sends it to one of {}: this is about {to}", front.backends.len()));
        return Ok(Some((first.address, first.port)));
    }
    Ok(None)
}

/// `Kind namespace/name path`; empty: no rule.
fn rule(rows: &RowSet, id: RuleId) -> String {
    match rows.rules.get(&id) {
        _ if id == RuleId::default() => String::new(),
        Some(row) => row.rule.to_string(),
        None => format!("rule {}", id.0),
    }
}

fn log(rows: &RowSet, id: RuleId) -> String {
    rows.rules.get(&id).and_then(|row| row.log.as_deref()).unwrap_or_default().to_owned()
}

/// What is asked of each end's table.
struct Judge<'a> {
    rows: &'a RowSet,
    own_host: bool,
    protocol: Protocol,
    port: u16,
}

impl Judge<'_> {
    fn side(&self, direction: Direction, subject: &EndpointRow, me: &End<'_>, peer: &End<'_>) -> SideView {
        let mut view = SideView {
            direction: if direction == Direction::Ingress { "ingress" } else { "egress" }.into(),
            pod: format!("{}/{}", subject.namespace, subject.name),
            table: format!("{:016x}", subject.table.0),
            ..SideView::default()
        };
        let (identity, whom) = peer.whom(self.rows, &subject.node);
        let same_pod = peer.endpoint.is_some_and(|e| e.uid == subject.uid);
        if same_pod || me.address == peer.address {
            (view.allow, view.reason) = (true, "a pod may always talk to itself".into());
        } else if self.own_host && direction == Direction::Ingress && identity == Identity::HOST {
            (view.allow, view.reason) = (true, "the pod's own node may always reach it".into());
            let table = self.rows.tables.get(&subject.table);
            let entry = table.and_then(|t| deciding(t, direction, whom, self.protocol, self.port)).map(|(_, e)| e);
            if let Some(entry) = entry.filter(|e| e.allow && !e.audit) {
                view.rule = rule(self.rows, entry.rule);
            }
        } else if let Some(table) = self.rows.tables.get(&subject.table) {
            self.by_table(&mut view, table, direction, whom, peer);
        } else {
            view.reason = "its policy table is not here yet: until then nothing passes".into();
        }
        view
    }

    fn by_table(&self, view: &mut SideView, table: &TableRow, direction: Direction, whom: Whom, peer: &End<'_>) {
        if let Some((key, entry)) = deciding(table, direction, whom, self.protocol, self.port) {
            view.allow = entry.allow;
            (view.rule, view.log) = (rule(self.rows, entry.rule), log(self.rows, entry.rule));
            view.entry = words(self.rows, &key);
            view.reason = match (entry.allow, view.rule.is_empty()) {
                (true, _) if entry.audit => "audited: it passes, but a rule would deny it if it were enforced",
                (true, false) => "a rule allows it",
                (false, false) => "a rule denies it",
                (true, true) => "no policy isolates the pod from it",
                (false, true) => "the table denies it",
            }
            .into();
        } else {
            let default = if direction == Direction::Ingress { table.ingress_default } else { table.egress_default };
            view.allow = default.allow;
            (view.rule, view.log) = (rule(self.rows, default.rule), log(self.rows, default.rule));
            view.reason = if default.audit {
                "audited: it passes, but a policy would isolate the pod in this direction, and no rule would allow it"
            } else if default.allow {
                "no policy isolates the pod in this direction"
            } else {
                "a policy isolates the pod in this direction, and no rule allows it"
            }
            .into();
        }
        if !view.allow {
            view.nearest = miss::nearest(self, table, direction, whom, &peer.name());
        }
    }
}

/// The entry that decides with its key: [`TableRow::find`] with the key.
fn deciding(
    table: &TableRow,
    direction: Direction,
    whom: Whom,
    protocol: Protocol,
    port: u16,
) -> Option<(PolicyKey, PolicyEntry)> {
    let levels = levels(whom);
    levels.into_iter().find_map(|peer| {
        let narrow = (0..=16u8).rev().map(|bits| (Some(protocol), port & mask(bits), bits));
        narrow.chain([(None, 0, 0)]).find_map(|(protocol, port, port_bits)| {
            let key = PolicyKey { direction, peer, protocol, port, port_bits };
            table.entries.get(&key).map(|e| (key, *e))
        })
    })
}

/// What a peer is looked up by, first the narrowest.
fn levels(whom: Whom) -> Vec<PeerClass> {
    [Some(whom.class), whom.kind, Some(PeerClass::ANY)].into_iter().flatten().collect()
}

/// An entry's key in words: `TCP 8080-8095 of pods-ipv4`.
fn words(rows: &RowSet, key: &PolicyKey) -> String {
    format!("{} of {}", ports(key), class_name(rows, key.peer))
}

/// `TCP 80`, `UDP any port`, `any protocol`.
fn ports(key: &PolicyKey) -> String {
    match (key.protocol, key.port_bits) {
        (None, _) => "any protocol".to_owned(),
        (Some(protocol), 0) => format!("{protocol} any port"),
        (Some(protocol), 16) => format!("{protocol} {}", key.port),
        (Some(protocol), bits) => format!("{protocol} {}-{}", key.port, key.port | !mask(bits)),
    }
}

fn class_name(rows: &RowSet, class: PeerClass) -> String {
    if let Some(name) = class.wide_name() {
        return name.to_owned();
    }
    if let Some(name) = Identity(class.0).reserved_name() {
        return name.to_owned();
    }
    match rows.identities.get(&Identity(class.0)) {
        Some(row) => format!("identity {} ({})", class.0, row.labels.to_strings().join(", ")),
        None => match rows.ips.values().find(|r| r.peer == class) {
            Some(row) if !row.pod.is_empty() => format!("class {} (such as {})", class.0, row.pod),
            Some(row) => format!("class {} (such as {})", class.0, row.prefix),
            None => format!("class {}", class.0),
        },
    }
}

//! `axoneme explain`: may one pod talk to another, and which rules decide: by the rows that the node runs by, or from
//! manifests alone.
//!
//! Of manifests the judge is `axoneme_model::verdict`, the reference that the compiler and the datapath are held against;
//! the nearest misses are read off the tables that the compiler makes of the same manifests.

use std::{io::BufRead, net::IpAddr, sync::Arc};

use axoneme_flow::{
    Content, FlowId, Query, Response, admin,
    explain::{Explanation, Question},
};
use axoneme_model::{
    Protocol, RuleRef, World,
    verdict::{Decision, Holder, Reason, Side, Traffic, holder, verdict},
};
use serde::Serialize;

use crate::{
    agent::Agent,
    args,
    failure::Failure,
    manifests,
    output::{Output, Tone},
    progress::Progress,
    world::{self, Described},
};

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
    reason: String,
    /// With `(file:line)` where it is known.
    rules: Vec<String>,
    /// What they have to say (`log.value`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<String>,
    /// What would have had to be different.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nearest: Vec<String>,
}

pub fn run(agent: &Agent, args: &args::Explain, out: &mut Output) -> Result<(), Failure> {
    let answer = match (&args.flow, &args.source, &args.destination) {
        (Some(uuid), ..) => asked(agent, &of_flow(agent, uuid)?)?,
        (None, Some(source), Some(destination)) if args.files.is_empty() => {
            let (protocol, port) = port(&args.port)?;
            asked(agent, &Question { source: source.clone(), destination: destination.clone(), protocol, port })?
        }
        (None, Some(source), Some(destination)) => by_manifests(args, source, destination)?,
        // clap asks for them
        _ => return Err(Failure::Usage("SOURCE and DESTINATION are missing, or --flow".into())),
    };
    out.document(args.output, &answer, table)?;
    if answer.allow { Ok(()) } else { Err(Failure::Unwell) }
}

/// The question that a flow answers.
fn of_flow(agent: &Agent, uuid: &str) -> Result<Question, Failure> {
    let id: FlowId = uuid.parse().map_err(|e| Failure::Usage(format!("--flow {uuid}: {e}")))?;
    let path = format!("{}?{}", admin::FLOWS, Query::default().to_url());
    let lines = agent.lines(&path, false)?;
    for line in lines.lines() {
        let line = line.map_err(|e| agent.lost(&path, &e))?;
        let Ok(Response { content: Content::Flow(flow), .. }) = serde_json::from_str(&line) else { continue };
        if flow.uuid != id && flow.uuid.twin() != id {
            continue;
        }
        let Some(ip) = &flow.ip else {
            return Err(Failure::Usage(format!("--flow {uuid}: it has no addresses: policy had no say")));
        };
        let (source, destination, port) = match flow.ports() {
            Some((from, _)) if flow.is_reply == Some(true) => (ip.destination, ip.source, from),
            Some((_, to)) => (ip.source, ip.destination, to),
            None => (ip.source, ip.destination, flow.icmp_kind().map_or(0, u16::from)),
        };
        let protocol = Protocol(flow.extensions.protocol);
        return Ok(Question { source: source.to_string(), destination: destination.to_string(), protocol, port });
    }
    Err(Failure::Usage(format!("--flow {uuid}: no such flow in the node's history; axoneme observe -o json has them")))
}

/// What the agent says.
fn asked(agent: &Agent, question: &Question) -> Result<Answer, Failure> {
    let said: Explanation = {
        let _progress = Progress::start("asking the agent");
        agent.get(&format!("{}?{}", admin::EXPLAIN, question.to_url()))?
    };
    let end = |asked: &str, view: &axoneme_flow::explain::EndView| {
        let name = if view.pod.is_empty() { asked } else { &view.pod };
        if name == view.address { name.to_owned() } else { format!("{name} ({})", view.address) }
    };
    let side = |s: axoneme_flow::explain::SideView| SideAnswer {
        direction: if s.direction == "ingress" { "ingress" } else { "egress" },
        pod: s.pod,
        allow: s.allow,
        reason: s.reason,
        rules: Some(s.rule).filter(|r| !r.is_empty()).into_iter().collect(),
        log: Some(s.log).filter(|l| !l.is_empty()).into_iter().collect(),
        nearest: s.nearest,
    };
    Ok(Answer {
        source: end(&question.source, &said.source),
        destination: end(&question.destination, &said.destination),
        protocol: said.protocol,
        port: said.port,
        allow: said.allow,
        sides: said.sides.into_iter().map(side).collect(),
        caveats: said.caveats,
    })
}

fn by_manifests(args: &args::Explain, source: &str, destination: &str) -> Result<Answer, Failure> {
    let progress = Progress::start("reading manifests");
    let documents = manifests::load(&args.files, &progress)?;
    let described = world::build(&documents);
    let world = &described.world;
    let (protocol, port) = port(&args.port)?;
    let sources = end(world, "SOURCE", source)?;
    let destinations = end(world, "DESTINATION", destination)?;
    let mut pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (*s, *d)));
    let Some(ends) = pairs.find(|(s, d)| s.is_ipv4() == d.is_ipv4()) else {
        let what = "they are of different address families: nothing can pass between them";
        return Err(Failure::Usage(format!("{source} and {destination}: {what}")));
    };
    let decision = verdict(world, &Traffic { source: ends.0, destination: ends.1, protocol, port });
    let mut sides = sides(&described, ends, &decision);
    if !decision.allow {
        let (source, destination) = (ends.0.to_string(), ends.1.to_string());
        nearest(world, &Question { source, destination, protocol, port }, &mut sides);
    }
    Ok(Answer {
        source: source.to_owned(),
        destination: destination.to_owned(),
        protocol: protocol.to_string(),
        port,
        allow: decision.allow,
        sides,
        caveats: described.caveats,
    })
}

/// Adds the nearest misses of what is denied.
fn nearest(world: &World, question: &Question, sides: &mut [SideAnswer]) {
    let rows = world::rows(world);
    let Ok(by_tables) = axoneme_flow::explain::explain(&rows, world.config.always_allow_own_host, question) else {
        return;
    };
    for side in sides.iter_mut().filter(|s| !s.allow) {
        let same = by_tables.sides.iter().find(|t| t.direction == side.direction);
        side.nearest = same.map(|t| t.nearest.clone()).unwrap_or_default();
    }
}

fn sides(described: &Described, ends: (IpAddr, IpAddr), decision: &Decision) -> Vec<SideAnswer> {
    let rule = |r: &RuleRef| match described.places.get(&r.object) {
        Some(place) => format!("{r} ({place})"),
        None => r.to_string(),
    };
    let side = |direction, address, side: &Option<Side>| {
        let Holder::Pod(pod) = holder(&described.world, address) else { return None };
        let side = side.as_ref()?;
        Some(SideAnswer {
            direction,
            pod: format!("{}/{}", pod.namespace, pod.name),
            allow: side.allow,
            reason: reason(side.reason).to_owned(),
            rules: side.rules.iter().map(rule).collect(),
            log: logs(&described.world, &side.rules),
            nearest: Vec::new(),
        })
    };
    [side("egress", ends.0, &decision.egress), side("ingress", ends.1, &decision.ingress)]
        .into_iter()
        .flatten()
        .collect()
}

/// What the rules have to say, each text once.
fn logs(world: &World, rules: &[RuleRef]) -> Vec<String> {
    let mut said = Vec::new();
    for log in rules.iter().filter_map(|r| world.policies.get(&r.object)?.log(&r.path)) {
        if said.iter().all(|s: &String| **s != **log) {
            said.push(log.to_string());
        }
    }
    said
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::SamePod => "a pod may always talk to itself",
        Reason::SameNode => "a node may always talk to itself",
        Reason::Safe(_) => "no policy of nodes may cut this",
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
        for log in &side.log {
            out.line(&format!("    log: {log}"))?;
        }
        for near in &side.nearest {
            out.line(&format!("    {} {near}", out.tone(Tone::Attention, "nearest:")))?;
        }
    }
    if answer.sides.is_empty() {
        out.line("  neither end is a pod that is known here: policy has no say")?;
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

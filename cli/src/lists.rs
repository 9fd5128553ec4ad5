//! `axoneme endpoints`, `identities`, `policy tables`: what the agent holds.

use axoneme_flow::admin::{self, DefaultView, IdentityView, LimitView, Status, TableView};
use axoneme_model::{Identity, PeerClass};

use crate::{
    agent::Agent,
    args,
    failure::Failure,
    output::{Output, Tone},
    progress::Progress,
};

pub fn endpoints(agent: &Agent, args: &args::Endpoints, out: &mut Output) -> Result<(), Failure> {
    let mut all = fetch::<Status>(agent, admin::STATUS)?.endpoints;
    all.retain(|e| {
        args.namespace.as_ref().is_none_or(|n| *n == e.namespace)
            && args.name.as_ref().is_none_or(|n| e.name.starts_with(n.as_str()))
    });
    all.sort_by(|a, b| (&a.namespace, &a.name, &a.interface).cmp(&(&b.namespace, &b.name, &b.interface)));
    out.document(args.output, &all, |out, all| {
        let rows = all.iter().map(|e| {
            let state = match (&e.fault, e.ready) {
                (Some(fault), _) => format!("✗ {}: {fault}", e.phase),
                (None, true) => "ready".to_owned(),
                (None, false) => e.phase.clone(),
            };
            let (pod, addresses) = (format!("{}/{}", e.namespace, e.name), e.addresses.join(","));
            let limits = e.bandwidth.as_ref().map_or_else(|| "-".to_owned(), limits);
            vec![pod, addresses, Identity(e.identity).to_string(), e.link.clone(), e.table.clone(), limits, state]
        });
        out.table(&["POD", "ADDRESSES", "IDENTITY", "LINK", "TABLE", "LIMITS", "STATE"], rows)
    })
}

/// What of a pod's traffic passes, to it and from it, in bits a second as its annotations say it.
fn limits(limit: &LimitView) -> String {
    let both = [("in", limit.ingress_bytes_per_second), ("out", limit.egress_bytes_per_second)];
    let some = both.into_iter().filter(|(_, bytes)| *bytes != 0);
    some.map(|(way, bytes)| format!("{way} {}", bits(bytes))).collect::<Vec<_>>().join(", ")
}

/// Bytes a second in bits, in the largest unit that shows three digits of it.
fn bits(bytes: u64) -> String {
    let bits = u128::from(bytes) * 8;
    let units = [("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3)];
    let Some((unit, power)) = units.into_iter().find(|(_, power)| bits >= 10u128.pow(*power)) else {
        return bits.to_string();
    };
    let thousandths = bits * 1000 / 10u128.pow(power);
    let number = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
}

pub fn identities(agent: &Agent, args: &args::Identities, out: &mut Output) -> Result<(), Failure> {
    let mut all: Vec<IdentityView> = fetch(agent, admin::IDENTITIES)?;
    all.retain(|i| args.ids.is_empty() || args.ids.contains(&i.id));
    all.sort_by_key(|i| i.id);
    out.document(args.output, &all, |out, all| {
        let rows = all.iter().map(|i| {
            let name = Identity(i.id).reserved_name().unwrap_or_default();
            vec![i.id.to_string(), name.to_owned(), i.labels.join(",")]
        });
        out.table(&["ID", "NAME", "LABELS"], rows)
    })
}

pub fn tables(agent: &Agent, args: &args::Tables, out: &mut Output) -> Result<(), Failure> {
    let mut all: Vec<TableView> = fetch(agent, admin::TABLES)?;
    if let Some(of) = &args.of {
        all.retain(|t| t.id == *of || t.endpoints.contains(of));
        if all.is_empty() {
            let what = "no such table or pod on this node; axoneme endpoints lists both";
            return Err(Failure::Usage(format!("TABLE|POD: {of:?}: {what}")));
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    out.document(args.output, &all, |out, all| all.iter().try_for_each(|t| table(out, t)))
}

fn table(out: &mut Output, table: &TableView) -> Result<(), Failure> {
    let name = out.tone(Tone::Strong, &table.id);
    out.line(&format!("TABLE {name}"))?;
    let pods = if table.endpoints.is_empty() { "none on this node".to_owned() } else { table.endpoints.join(", ") };
    out.line(&format!("  pods:     {pods}"))?;
    for policy in &table.policies {
        out.line(&format!("  policy:   {} (generation {})", policy.object, policy.generation))?;
    }
    for (direction, default) in [("ingress", &table.ingress_default), ("egress", &table.egress_default)] {
        let DefaultView { allow, rule } = default;
        let because = if rule.is_empty() { String::new() } else { format!(" ({rule})") };
        out.line(&format!("  default:  {direction} {}{because}", word(*allow)))?;
    }
    let rows = table.entries.iter().map(|e| {
        let peer = match PeerClass(e.peer).wide_name() {
            Some(name) => name.to_owned(),
            None => Identity(e.peer).to_string(),
        };
        let verdict = match e.proxy_port {
            0 => word(e.allow).to_owned(),
            port => format!("proxy {port}"),
        };
        vec![format!("  {}", e.direction), peer, e.protocol.clone(), e.port.clone(), verdict, e.rule.clone()]
    });
    out.table(&["  DIRECTION", "PEER", "PROTOCOL", "PORT", "VERDICT", "RULE"], rows)?;
    out.line("")
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn fetch<T: serde::de::DeserializeOwned>(agent: &Agent, path: &str) -> Result<T, Failure> {
    let _progress = Progress::start("asking the agent");
    agent.get(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shown_as_they_were_asked_for() {
        for (bytes, text) in [
            (125, "1k"),
            (1_250_000, "10M"),
            (187_500, "1.5M"),
            (131_072, "1.048M"),
            (125_000_000_000_000, "1P"),
            (12_500_000_000, "100G"),
        ] {
            assert_eq!(bits(bytes), text);
        }
        let limit = LimitView { ingress_bytes_per_second: 125, egress_bytes_per_second: 250, ..LimitView::default() };
        assert_eq!(limits(&limit), "in 1k, out 2k");
        assert_eq!(limits(&LimitView { ingress_bytes_per_second: 0, ..limit }), "out 2k");
    }
}

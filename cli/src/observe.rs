//! `axoneme observe`: flows of the node, old and new.

use std::{io::BufRead, net::IpAddr};

use axoneme_flow::{
    Content, Event, FieldError, FilterSpec, Flow, Query, Response, Verdict, admin,
    flow::{Counters, Endpoint},
};
use axoneme_model::Identity;

use crate::{
    agent::Agent,
    args::{FlowFormat, Observe},
    failure::Failure,
    output::{Output, Tone},
};

/// Flows that are shown where nothing else is asked for.
const DEFAULT_LAST: u64 = 20;

pub fn run(agent: &Agent, args: &Observe, out: &mut Output) -> Result<(), Failure> {
    let query = query(args).map_err(|errors| Failure::Usage(describe(&errors)))?;
    let path = format!("{}?{}", admin::FLOWS, query.to_url());
    let mut lines = agent.lines(&path, query.follow)?;
    let mut printer = Printer { format: args.output, node: args.print_node_name, widths: WIDTHS, head: false };
    let mut line = String::new();
    loop {
        if lines.buffer().is_empty() {
            // the next read may wait: what is known is shown
            out.flush()?;
        }
        line.clear();
        let read = lines.read_line(&mut line).map_err(|e| agent.lost(&path, &e))?;
        if read == 0 {
            return out.flush();
        }
        printer.print(line.trim_end(), out)?;
    }
}

fn query(args: &Observe) -> Result<Query, Vec<FieldError>> {
    let mut filter = args.filter.spec();
    let mut errors = Vec::new();
    match not(&args.filter.not) {
        Ok(not) => filter.not = not,
        Err(error) => errors.push(error),
    }
    // the agent would say the same, but a mistake is a mistake without an agent too
    errors.extend(filter.parse().err().unwrap_or_default());
    if !errors.is_empty() {
        return Err(errors);
    }
    let range = &args.range;
    let bounded = range.all || range.since.is_some() || range.until.is_some();
    let default = if range.follow { 0 } else { DEFAULT_LAST };
    let last = range.last.or_else(|| (!bounded).then_some(default));
    Ok(Query { filter, last, follow: range.follow, since: range.since, until: range.until })
}

/// `port=53`, `to-namespace=kube-system`: a filter of its own.
fn not(words: &[String]) -> Result<Option<Box<FilterSpec>>, FieldError> {
    if words.is_empty() {
        return Ok(None);
    }
    let fail = |word: &str| FieldError {
        field: "not".into(),
        value: word.into(),
        problem: "not FILTER=VALUE".into(),
        choices: "use a filter without its dashes, as port=53 or to-namespace=kube-system".into(),
    };
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| fail(word))?;
        let name = name.replace('-', "_");
        FilterSpec::from_pairs([(name.as_str(), value)]).map_err(|e| FieldError {
            field: "not".into(),
            value: word.clone(),
            ..e
        })?;
        pairs.push((name, value));
    }
    let filter = FilterSpec::from_pairs(pairs.iter().map(|(name, value)| (name.as_str(), *value)))?;
    Ok(Some(Box::new(filter)))
}

/// With the fields as flags.
fn describe(errors: &[FieldError]) -> String {
    let line =
        |e: &FieldError| FieldError { field: format!("--{}", e.field.replace('_', "-")), ..e.clone() }.to_string();
    errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Columns begin as wide as most of their cells will be.
const WIDTHS: [usize; 5] = [19, 28, 28, 13, 9];

#[derive(Debug)]
struct Printer {
    format: FlowFormat,
    node: bool,
    /// Widest so far of each column but the last: columns widen as they must, so that nothing waits for the end.
    widths: [usize; 5],
    head: bool,
}

impl Printer {
    fn print(&mut self, line: &str, out: &mut Output) -> Result<(), Failure> {
        let response: Response = serde_json::from_str(line).map_err(|e| {
            let start: String = line.chars().take(200).collect();
            Failure::Answer(format!("agent's flow is not understood: {e}: {start}"))
        })?;
        match (self.format, response.content) {
            (FlowFormat::Json | FlowFormat::Jsonpb, _) => out.line(line),
            (_, Content::Lost(lost)) => {
                // not among the flows, so that counting and cutting lines stays right
                eprintln!("EVENTS LOST: {} ({:?})", lost.num_events_lost, lost.source);
                Ok(())
            }
            (FlowFormat::Compact, Content::Flow(flow)) => out.line(&self.compact(&flow, out)),
            (FlowFormat::Table, Content::Flow(flow)) => self.row(&flow, out),
        }
    }

    fn compact(&self, flow: &Flow, out: &Output) -> String {
        let node = if self.node { format!(" [{}]", flow.node_name) } else { String::new() };
        let ends = ends(flow).map(|(name, identity)| {
            format!("{} {}", out.tone(Tone::Name, &name), out.tone(Tone::Number, &format!("({identity})")))
        });
        let [source, destination] = ends;
        // a reply is shown under the connection's own direction, as Hubble does
        let (left, arrow, right) = match flow.is_reply {
            Some(true) => (destination, "<-", source),
            Some(false) => (source, "->", destination),
            None => (source, if flow.extensions.event == Event::Drop { "->" } else { "<>" }, destination),
        };
        let verdict = out.tone(verdict_tone(flow.verdict), flow.verdict.name());
        let time = out.tone(Tone::Faint, &flow.time.stamp());
        let mut line = format!("{time}{node}: {left} {arrow} {right} {} {verdict} ({})", kind(flow), summary(flow));
        if let Some(by) = decided_by(flow) {
            line.push_str(" BY ");
            line.push_str(&by);
        }
        for log in flow.policy_log.iter() {
            let log = format!(" LOG {log:?}");
            line.push_str(&log);
        }
        line
    }

    fn row(&mut self, flow: &Flow, out: &mut Output) -> Result<(), Failure> {
        if !self.head {
            self.head = true;
            let head = ["TIMESTAMP", "SOURCE", "DESTINATION", "TYPE", "VERDICT"];
            self.cells(&head.map(str::to_owned), "POLICY; SUMMARY", None, out)?;
        }
        let [source, destination] = ends(flow).map(|e| e.0);
        let node = if self.node { format!(" [{}]", flow.node_name) } else { String::new() };
        let cells = [
            format!("{}{node}", flow.time.stamp()),
            source,
            destination,
            kind(flow).to_owned(),
            flow.verdict.name().to_owned(),
        ];
        let by = decided_by(flow).map(|by| format!("{by}; ")).unwrap_or_default();
        let log = flow.policy_log.iter().map(|log| format!("log {log:?}; ")).collect::<Vec<_>>().concat();
        self.cells(&cells, &format!("{by}{log}{}", summary(flow)), Some(flow.verdict), out)
    }

    fn cells(
        &mut self,
        cells: &[String; 5],
        last: &str,
        verdict: Option<Verdict>,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let mut line = String::new();
        for (n, (cell, width)) in cells.iter().zip(&mut self.widths).enumerate() {
            let long = cell.chars().count();
            *width = (*width).max(long);
            let shown = match verdict {
                Some(v) if n == 4 => out.tone(verdict_tone(v), cell),
                _ => cell.clone(),
            };
            line.push_str(&shown);
            line.push_str(&" ".repeat(*width - long + 2));
        }
        line.push_str(last);
        out.line(&line)
    }
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Forwarded | Verdict::Redirected => Tone::Good,
        Verdict::Dropped | Verdict::Error => Tone::Bad,
        _ => Tone::Attention,
    }
}

/// What was seen: the reason of a drop, the observation point of anything else.
pub(crate) fn kind(flow: &Flow) -> &'static str {
    match (flow.extensions.event, flow.drop_reason_desc, flow.trace_observation_point) {
        (Event::Drop, Some(reason), _) => reason.describe(),
        (Event::Drop, None, _) => "dropped",
        (Event::Closed, ..) => "closed",
        (Event::Judged, ..) => "judged",
        (Event::New, _, Some(point)) => point.word(),
        (Event::New, _, None) => "new",
    }
}

/// Name and identity of source and destination.
fn ends(flow: &Flow) -> [(String, String); 2] {
    let ports = flow.ports().unzip();
    let [source, destination] = hosts(flow);
    [(end(source, ports.0), identity(&flow.source)), (end(destination, ports.1), identity(&flow.destination))]
}

/// Source and destination: pods by name, others by address.
pub(crate) fn hosts(flow: &Flow) -> [String; 2] {
    let host = |endpoint: &Endpoint, address: Option<IpAddr>| {
        if endpoint.pod_name.is_empty() {
            address.map(|a| a.to_string()).unwrap_or_default()
        } else {
            format!("{}/{}", endpoint.namespace, endpoint.pod_name)
        }
    };
    let (source, destination) = flow.ip.as_ref().map(|ip| (ip.source, ip.destination)).unzip();
    [host(&flow.source, source), host(&flow.destination, destination)]
}

fn end(host: String, port: Option<u16>) -> String {
    match port {
        // IPv6 as in URLs, or the port would be one more group
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

fn identity(endpoint: &Endpoint) -> String {
    match Identity(endpoint.identity).reserved_name() {
        Some(name) => name.to_owned(),
        None => format!("ID:{}", endpoint.identity),
    }
}

fn summary(flow: &Flow) -> String {
    let sent = |c: Counters| format!("{} packets, {} bytes", c.packets, c.bytes);
    match (flow.extensions.forward, flow.extensions.backward) {
        (Some(there), Some(back)) => format!("{}; sent {}, received {}", flow.summary, sent(there), sent(back)),
        _ => flow.summary.to_string(),
    }
}

/// The rule if the agent knew it, else the policies.
fn decided_by(flow: &Flow) -> Option<String> {
    if let Some(rule) = flow.extensions.rule.as_ref().map(|hit| &hit.rule) {
        let namespace = if rule.namespace.is_empty() { String::new() } else { format!("{}/", rule.namespace) };
        return Some(format!("{} {namespace}{} {}", rule.kind, rule.name, rule.path).trim_end().to_owned());
    }
    let policies: Vec<String> = flow.decided_by().map(|(p, _)| p.to_string()).collect();
    (!policies.is_empty()).then(|| policies.join(", "))
}

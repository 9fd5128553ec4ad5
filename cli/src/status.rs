//! `axoneme status`: how the node is, and what mends it.

use std::time::{Duration, Instant};

use axoneme_flow::admin::{self, LaneHealth, NodeHealth, Status};
use serde::Serialize;
use serde_json::Value;

use crate::{
    agent::Agent,
    args,
    checks::{Check, State, checks},
    failure::Failure,
    output::{Output, Tone},
    progress::Progress,
};

/// How often a node that is waited for is asked.
const POLL: Duration = Duration::from_millis(500);

/// The agent's facts, judged.
#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
    /// The agent's document, also with what this version does not know.
    #[serde(flatten)]
    document: Value,
    /// Each node that is probed.
    #[serde(rename = "node_health", skip_serializing_if = "Option::is_none")]
    matrix: Option<Vec<NodeHealth>>,
    #[serde(skip)]
    status: Status,
}

impl Report {
    fn well(&self) -> bool {
        self.status.ready && self.checks.iter().all(|c| c.state != State::Failed)
    }
}

pub fn run(agent: &Agent, args: &args::Status, out: &mut Output) -> Result<(), Failure> {
    let mut report = match args.wait {
        Some(seconds) => wait(agent, Duration::from_secs(seconds))?,
        None => ask(agent)?,
    };
    if args.health {
        report.matrix = Some(agent.get(admin::HEALTH)?);
    }
    out.document(args.output, &report, table)?;
    if report.well() { Ok(()) } else { Err(Failure::Unwell) }
}

fn ask(agent: &Agent) -> Result<Report, Failure> {
    let document = agent.get::<Value>(admin::STATUS)?;
    let status: Status = serde_json::from_value(document.clone())
        .map_err(|e| Failure::Answer(format!("agent's status is not understood: {e}; see: axoneme version")))?;
    Ok(Report { checks: checks(&status), document, matrix: None, status })
}

/// Asks until the node is well or the time is over; then whatever the last answer was.
fn wait(agent: &Agent, patience: Duration) -> Result<Report, Failure> {
    let progress = Progress::start("waiting for the agent");
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask(agent);
        match &answer {
            Ok(report) if report.well() => return answer,
            Ok(report) => {
                let open = report.checks.iter().find(|c| c.state == State::Failed || c.state == State::Waiting);
                progress.say(open.map_or_else(String::new, |c| format!("{}: {}", c.name, c.detail)));
            }
            // the agent may only be about to start
            Err(Failure::Unreachable(why)) => progress.say(why.clone()),
            Err(_) => return answer,
        }
        if Instant::now() >= deadline {
            return answer;
        }
        std::thread::sleep(POLL);
    }
}

fn table(out: &mut Output, report: &Report) -> Result<(), Failure> {
    let ready = if report.status.ready { out.tone(Tone::Good, "ready") } else { out.tone(Tone::Bad, "not ready") };
    out.line(&format!("node {}: {ready}", report.status.node))?;
    let width = report.checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let (mark, tone) = mark(check.state);
        let mark = out.tone(tone, mark);
        out.line(&format!("  {mark} {:width$}  {}", check.name, check.detail))?;
        if !check.mend.is_empty() {
            let mend = out.tone(Tone::Strong, "mend:");
            out.line(&format!("    {:width$}  {mend} {}", "", check.mend))?;
        }
    }
    report.matrix.as_deref().map_or(Ok(()), |nodes| matrix(out, nodes))
}

fn matrix(out: &mut Output, nodes: &[NodeHealth]) -> Result<(), Failure> {
    if nodes.is_empty() {
        return out.line("no node is probed: spec.nodeHealth of the AxonemeConfig");
    }
    let rows = nodes.iter().flat_map(|node| node.lanes.iter().map(|lane| row(&node.node, lane)));
    out.table(&["NODE", "PATH", "ADDRESS", "PROTOCOL", "STATE", "SINCE", "LATENCY", "PROBED", "ERROR"], rows)
}

fn row(node: &str, lane: &LaneHealth) -> Vec<String> {
    let ago = |seconds: Option<u64>| seconds.map_or_else(|| "-".to_owned(), |s| format!("{s}s"));
    let latency = lane.latency_micros.map(Duration::from_micros);
    vec![
        node.to_owned(),
        lane.place.clone(),
        lane.address.clone(),
        lane.protocol.to_uppercase(),
        lane.state.clone(),
        ago(lane.since_seconds),
        latency.map_or_else(|| "-".to_owned(), |l| format!("{l:.1?}")),
        ago(lane.probed_seconds),
        lane.error.clone(),
    ]
}

pub(crate) fn mark(state: State) -> (&'static str, Tone) {
    match state {
        State::Ok => ("✓", Tone::Good),
        State::Waiting => ("…", Tone::Attention),
        State::Warning => ("!", Tone::Attention),
        State::Failed => ("✗", Tone::Bad),
    }
}

//! `axoneme top`: who talks most, what is dropped and why, and how the node is, on one screen or in one document.
//!
//! ```text
//!   agent ─ flows ─▶ Tally (time in slices, bounded) ─▶ Report ─▶ document, table, or frame of the screen
//!         └ status ─▶ checks ──────────────────────────┘
//! ```

mod screen;
mod tally;

use std::io::{BufRead, IsTerminal as _, stdout};

use axoneme_flow::{
    Query, Response, Time,
    admin::{self, Status},
};
use serde::Serialize;

use crate::{
    agent::Agent,
    args::{self, Format},
    checks::{Check, State, checks},
    failure::Failure,
    output::{self, Output, Tone},
    status,
};
use tally::{Counts, Pair, Tally};

/// What `top` knows at a moment.
#[derive(Debug, Serialize)]
struct Report {
    node: String,
    ready: bool,
    flows: u64,
    /// Events that nobody saw, as far as the agent told of them in the stream.
    lost: u64,
    /// Times of the oldest and the newest flow that count.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Time>,
    total: Counts,
    /// The first in the order that was asked for.
    pairs: Vec<PairRow>,
    drops: Vec<DropRow>,
    /// What is not well, or may soon not be.
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct PairRow {
    #[serde(flatten)]
    pair: Pair,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct DropRow {
    reason: String,
    /// That decided; empty: none did, or its name is not known.
    policy: String,
    drops: u64,
    last: Pair,
}

impl Report {
    fn of(tally: &Tally, status: &Status, args: &args::Top) -> Self {
        let all = tally.sum();
        let mut pairs: Vec<PairRow> = all.pairs.into_iter().map(|(pair, counts)| PairRow { pair, counts }).collect();
        pairs.sort_by(|a, b| args.sort.key(&b.counts).cmp(&args.sort.key(&a.counts)).then_with(|| a.pair.cmp(&b.pair)));
        pairs.truncate(args.rows);
        let row = |((reason, policy), (drops, last)): ((String, String), (u64, Pair))| DropRow {
            reason,
            policy,
            drops,
            last,
        };
        let mut drops: Vec<DropRow> = all.drops.into_iter().map(row).collect();
        drops.sort_by(|a, b| b.drops.cmp(&a.drops).then_with(|| (&a.reason, &a.policy).cmp(&(&b.reason, &b.policy))));
        drops.truncate(args.rows);
        Self {
            node: status.node.clone(),
            ready: status.ready,
            flows: all.flows,
            lost: tally.lost,
            since: all.span.map(|s| s.0),
            until: all.span.map(|s| s.1),
            total: all.total,
            pairs,
            drops,
            checks: checks(status).into_iter().filter(|c| c.state != State::Ok).collect(),
        }
    }

    /// Lines of a frame, each in one tone; without colours yet, so that they can be cut.
    fn lines(&self) -> Vec<(Option<Tone>, String)> {
        let ready = if self.ready { "ready" } else { "not ready" };
        let lost = if self.lost == 0 { String::new() } else { format!(", {} lost", self.lost) };
        let Counts { opened, dropped, bytes, .. } = self.total;
        let tone = if self.ready { Tone::Good } else { Tone::Bad };
        let mut out = vec![
            (Some(tone), format!("node {}: {ready}", self.node)),
            (None, format!("{} flows{lost}: {opened} opened, {dropped} dropped, {bytes} bytes", self.flows)),
        ];
        for check in &self.checks {
            let (mark, tone) = status::mark(check.state);
            out.push((Some(tone), format!("  {mark} {}  {}", check.name, check.detail)));
        }
        let number = |n: u64| n.to_string();
        let pairs = self.pairs.iter().map(|PairRow { pair: p, counts: c }| {
            let counts = [c.opened, c.dropped, c.packets, c.bytes].map(number);
            [p.source.clone(), p.destination.clone(), p.port.clone()].into_iter().chain(counts).collect()
        });
        let head = ["SOURCE", "DESTINATION", "PORT", "OPENED", "DROPPED", "PACKETS", "BYTES"];
        table(&mut out, &head, pairs.collect());
        let drops = self.drops.iter().map(|d| {
            let last = format!("{} -> {} {}", d.last.source, d.last.destination, d.last.port);
            vec![d.reason.clone(), number(d.drops), d.policy.clone(), last]
        });
        table(&mut out, &["REASON", "DROPS", "POLICY", "LAST"], drops.collect());
        out
    }
}

/// A table after an empty line; none where there are no rows.
fn table(out: &mut Vec<(Option<Tone>, String)>, head: &[&str], rows: Vec<Vec<String>>) {
    if !rows.is_empty() {
        out.push((None, String::new()));
        let lines = output::table_lines(head, rows).into_iter().enumerate();
        out.extend(lines.map(|(n, line)| ((n == 0).then_some(Tone::Strong), line)));
    }
}

pub fn run(agent: &Agent, args: &args::Top, out: &mut Output) -> Result<(), Failure> {
    if args.once || args.output != Format::Table || !stdout().is_terminal() {
        once(agent, args, out)
    } else {
        screen::run(agent, args, out)
    }
}

/// All that the node still knows, or the window before its newest flow.
fn once(agent: &Agent, args: &args::Top, out: &mut Output) -> Result<(), Failure> {
    let mut tally = Tally::new(args.window);
    let path = format!("{}?{}", admin::FLOWS, Query::default().to_url());
    for line in agent.lines(&path, false)?.lines() {
        tally.add(&response(&line.map_err(|e| agent.lost(&path, &e))?)?);
    }
    let report = Report::of(&tally, &agent.get(admin::STATUS)?, args);
    out.document(args.output, &report, |out, report| {
        report.lines().iter().try_for_each(|(tone, line)| {
            let line = tone.map_or_else(|| line.clone(), |tone| out.tone(tone, line));
            out.line(&line)
        })
    })
}

fn response(line: &str) -> Result<Response, Failure> {
    serde_json::from_str(line).map_err(|e| {
        let start: String = line.chars().take(200).collect();
        Failure::Answer(format!("agent's flow is not understood: {e}: {start}"))
    })
}

//! `cargo xtask bench`: ours, a floor and a peer, interleaved in one run; a table for people, one JSON object a line for
//! machines, and the figures of README's status table.
//!
//! A figure comes from a run or it is not there: README's table is written from the recorded lines, never by hand.

mod api;
mod cluster;
mod cni;
mod flows;
mod goals;
mod readme;
mod scale;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::command::output;
use crate::progress::{say, step};
use crate::setup::{self, Part};
use crate::{image, settings};

/// Options of the bench.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct BenchArgs {
    /// Only groups whose name holds this: datapath, compile, policy, flows, scale, cni, cluster.
    filter: Option<String>,
    /// One JSON object a line on standard output instead of the table.
    #[arg(long)]
    json: bool,
    /// Keep the figures in docs/benchmarks.jsonl and write README's table from them.
    #[arg(long)]
    record: bool,
    /// A tenth of the rounds: shows that the bench runs, and is not for recording.
    #[arg(long, conflicts_with = "record")]
    quick: bool,
    /// Measure nothing: write README's table from what is recorded, after a change of the goals.
    #[arg(long, conflicts_with_all = ["record", "quick", "json", "filter"])]
    table: bool,
}

/// One figure. A ratio is ours over theirs; which way is better follows from the unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) ours: f64,
    pub(crate) floor: Option<f64>,
    pub(crate) floor_name: Option<String>,
    pub(crate) peer: Option<f64>,
    pub(crate) peer_name: Option<String>,
    pub(crate) ratio_to_floor: Option<f64>,
    pub(crate) ratio_to_peer: Option<f64>,
    /// Smallest and largest of the rounds, as the bench prints them.
    pub(crate) spread: Option<serde_json::Value>,
}

impl Figure {
    /// A figure with nothing to compare it with.
    pub(crate) fn bare(name: &str, unit: &str, ours: f64) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            ours,
            floor: None,
            floor_name: None,
            peer: None,
            peer_name: None,
            ratio_to_floor: None,
            ratio_to_peer: None,
            spread: None,
        }
    }
}

/// Figures that are measured together.
struct Group {
    name: &'static str,
    about: &'static str,
    run: fn(Effort) -> Result<Vec<Figure>>,
}

/// How many rounds a group runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    Full,
    /// Full, and kept: documents get their tables, too.
    Recorded,
    Quick,
}

impl Effort {
    /// So many rounds, or a tenth of them.
    fn rounds(self, full: usize) -> usize {
        if self == Self::Quick { (full / 10).max(1) } else { full }
    }
}

const GROUPS: &[Group] = &[
    Group {
        name: "datapath",
        about: "packets through the programs, against a bare veth pair and the kernel's own way",
        run: |effort| example("axoneme-kernel", "datapath_bench", &["--rounds", &effort.rounds(45).to_string()]),
    },
    Group {
        name: "compile",
        about: "policy changes in a large cluster",
        run: |effort| {
            example("axoneme-compile", "compile_scale", &["10000", "65000", &effort.rounds(2000).to_string()])
        },
    },
    Group {
        name: "policy",
        about: "a policy change to the last map write, in a large cluster",
        run: |effort| example("axoneme-kernel", "policy_write", &["10000", "65000", &effort.rounds(1000).to_string()]),
    },
    Group {
        name: "flows",
        about: "flows from event bytes to what clients are sent, on one core; what telling them costs, beside softflowd",
        run: flows::run,
    },
    Group { name: "scale", about: "the operator with 5,000 nodes and 100,000 pods", run: scale::run },
    Group { name: "cni", about: "pods added and removed, alternating with the reference plugins", run: |_| cni::run() },
    Group { name: "cluster", about: "pod start and time to enforcement on real clusters", run: cluster::run },
];

/// Runs the groups that the filter picks. A group that fails is told at the end and keeps no other from its figures.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if args.table {
        return readme::write(&recorded()?);
    }
    let picked: Vec<&Group> =
        GROUPS.iter().filter(|group| args.filter.as_deref().is_none_or(|word| group.name.contains(word))).collect();
    let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
    anyhow::ensure!(!picked.is_empty(), "no group named like {:?}: {}", args.filter, names.join(", "));
    setup::run_quietly(Part::Build)?;
    let effort = match (args.quick, args.record) {
        (true, _) => Effort::Quick,
        (false, true) => Effort::Recorded,
        (false, false) => Effort::Full,
    };
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for group in picked {
        match step(&format!("{}: {}", group.name, group.about), || (group.run)(effort)) {
            Ok(found) => figures.extend(found),
            Err(error) => {
                say(format_args!("  !! {}: {error:#}", group.name));
                failed.push(group.name);
            }
        }
    }
    if args.json {
        for figure in &figures {
            println!("{}", serde_json::to_string(figure)?);
        }
    } else {
        print_table(&figures);
    }
    if args.record {
        record(&figures)?;
    }
    anyhow::ensure!(failed.is_empty(), "without figures, see above: {}", failed.join(", "));
    Ok(())
}

/// Runs a program of the workspace that prints figures.
fn example(package: &str, example: &str, words: &[&str]) -> Result<Vec<Figure>> {
    let mut command = image::cargo("run");
    command.args(["--package", package, "--example", example, "--"]).args(words);
    parse(&output(&mut command)?).with_context(|| format!("what {example} printed"))
}

/// The lines that are figures; anything else that a bench prints is for people.
fn parse(text: &str) -> Result<Vec<Figure>> {
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).with_context(|| format!("figure {line}")))
        .collect()
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| if v.abs() >= 1000.0 { format!("{v:.0}") } else { format!("{v:.3}") })
}

fn print_table(figures: &[Figure]) {
    println!(
        "{:<34} {:>10} {:>10} {:>10} {:>8} {:>10} {:>8}  floor, peer",
        "figure", "unit", "ours", "floor", "ratio", "peer", "ratio"
    );
    for f in figures {
        println!(
            "{:<34} {:>10} {:>10} {:>10} {:>8} {:>10} {:>8}  {}",
            f.name,
            f.unit,
            number(Some(f.ours)),
            number(f.floor),
            number(f.ratio_to_floor),
            number(f.peer),
            number(f.ratio_to_peer),
            [f.floor_name.as_deref(), f.peer_name.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ")
        );
    }
}

fn path() -> PathBuf {
    settings::repository().join("docs/benchmarks.jsonl")
}

/// The figures that are kept, by name.
fn recorded() -> Result<BTreeMap<String, Figure>> {
    match std::fs::read_to_string(path()) {
        Ok(text) => Ok(parse(&text)?.into_iter().map(|f| (f.name.clone(), f)).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path().display())),
    }
}

/// Newer figures replace older ones of the same name.
fn record(figures: &[Figure]) -> Result<()> {
    let mut all = recorded()?;
    all.extend(figures.iter().map(|f| (f.name.clone(), f.clone())));
    let lines: Vec<String> = all.values().map(serde_json::to_string).collect::<Result<_, _>>()?;
    std::fs::write(path(), lines.join("\n") + "\n").with_context(|| format!("writing {}", path().display()))?;
    readme::write(&all)?;
    say(format_args!("  ok {} figures recorded in docs/benchmarks.jsonl and README.md", figures.len()));
    Ok(())
}

/// Holds README's table against what is recorded.
pub(crate) fn table_is_current() -> Result<()> {
    readme::check(&recorded()?)
}

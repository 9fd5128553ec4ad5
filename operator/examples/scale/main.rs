//! The real operator against an API server in a cluster of any size: memory, processor, writes, propagation.
//!
//! ```text
//!   this process                                        child: the operator, measured
//!   ┌──────────────┐  HTTP, loopback: lists, watches,   ┌────────────────────────────────────────┐
//!   │ API server   │◀── writes, TokenReviews ──────────▶│ app::start, as in the operator's binary │
//!   │ (generated   │                                    │   └─ stream service ─▶ simulated nodes  │
//!   │  objects)    │  gRPC and TLS, loopback            │      (whole encoded messages, acked)    │
//!   │ probe nodes  │◀──────────────────────────────────▶│                                        │
//!   └──────────────┘                                    └────────────────────────────────────────┘
//! ```
//!
//! `cargo run --profile image -p axoneme-operator --example scale -- [--pods N] [--nodes N] [--policies N] [--identities N]
//! [--seconds N] [--agent PATH] [--without TECHNIQUE,…]` prints one JSON object a line; what is not said is in proportion
//! to the pods. What is simulated is honest about its share: the streams of simulated nodes end in the operator's process
//! without TLS, so their queues and acknowledgements are in its memory and processor time, but no encryption is; a probe
//! node's stream is whole, and so is that of the two agents that `--agent` starts.
//!
//! `--compare` runs one cluster with all techniques, without each, and without all. `--growth 1000,10000 --grown-policies
//! 100,1000` runs one size after the other. With `--write FILE` what was measured takes the place of what the file has
//! between its marks, as tables and as plots; the run of `--pods`, too.
#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "objects and messages that it has made itself")]
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "figures have a few digits")]

mod agents;
mod api;
mod child;
mod document;
mod http;
mod probe;
mod run;
mod world;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::run::Figure;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How large, and for how long.
#[derive(Clone, Debug, Parser)]
struct Options {
    #[arg(long, default_value_t = 100_000)]
    pods: u32,
    /// A twentieth of the pods.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    nodes: u32,
    /// A tenth of the pods.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    policies: u32,
    /// Distinct label sets that policies tell apart; 65 % of the pods, 65 000 at most.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    identities: u32,
    /// Pods that are replaced a second.
    #[arg(long, default_value_t = 30)]
    churn: u32,
    /// Policies that are changed a second.
    #[arg(long, default_value_t = 10)]
    edits: u32,
    /// For so long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The run is given up after so many seconds.
    #[arg(long, default_value_t = 240)]
    patience: u64,
    /// The operator works without these.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Technique>,
    /// Two agents of this binary serve nodes, with everything that they need in the kernel. Needs root.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Pods of several clusters, measured one after the other.
    #[arg(long, value_delimiter = ',')]
    growth: Vec<u32>,
    /// Policies of several clusters of so many pods, measured one after the other.
    #[arg(long, value_delimiter = ',')]
    grown_policies: Vec<u32>,
    /// One cluster with all techniques, without each, and without all of them.
    #[arg(long)]
    compare: bool,
    /// The file that gets tables and plots.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Put behind the names of all figures.
    #[arg(long, default_value = "")]
    name: String,
    /// The operator's part: the API server to be asked.
    #[arg(long, hide = true)]
    operator: Option<String>,
}

/// What keeps a large cluster cheap, and can be left out to see what it gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Technique {
    /// Changes are compiled; without it, the whole cluster with each of them.
    Incremental,
    /// What goes to several nodes is encoded once; without it, for each of them.
    Sharing,
    /// What concerns all nodes goes to each once in a while; without it, with each revision.
    Pacing,
    /// Nodes acknowledge what somebody waits for; without it, every commit.
    Quiet,
}

impl Technique {
    const ALL: [Self; 4] = [Self::Incremental, Self::Sharing, Self::Pacing, Self::Quiet];

    /// As the command line has it.
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Nodes whose streams are whole: gRPC, TLS, decoded.
const PROBES: u32 = 4;
/// Nodes that real agents serve, if there are any.
const AGENTS: u32 = 2;

impl Options {
    /// With what was not said in proportion to the pods, and all within what the generated cluster can be.
    fn filled(mut self) -> Self {
        let or = |said: u32, share: u32| if said == 0 { share } else { said };
        self.identities = or(self.identities, self.pods / 20 * 13).min(self.pods).clamp(1, 65_000);
        let least = self.reserved() + 1;
        self.nodes = or(self.nodes, self.pods / 20).clamp(least, self.pods.max(least));
        self.policies = or(self.policies, self.pods / 10).clamp(1, self.identities);
        self
    }

    /// The first nodes are not simulated.
    const fn reserved(&self) -> u32 {
        if self.agent.is_some() { PROBES + AGENTS } else { PROBES }
    }
}

/// A cluster with what was found in it.
type Measured = (Options, Vec<Figure>);

async fn measure(o: Options) -> anyhow::Result<Measured> {
    let o = o.filled();
    let run = tokio::time::timeout(Duration::from_secs(o.patience), run::run(&o)).await;
    let figures = run.context("it takes too long").flatten();
    let figures =
        figures.with_context(|| format!("{} pods, {} policies, without {:?}", o.pods, o.policies, o.without))?;
    Ok((o, figures))
}

/// One size after the other.
async fn grow(sizes: impl Iterator<Item = Options>) -> anyhow::Result<Vec<Measured>> {
    let mut all = Vec::new();
    for size in sizes {
        all.push(measure(Options { without: Vec::new(), agent: None, ..size }).await?);
    }
    Ok(all)
}

/// Figures of compared ways that are told one by one; the table has more.
const COMPARED: [&str; 2] = ["operator_cpu_cores", "policy_p99_ms"];

/// Everything; each technique left out; all of them. What is left out is in the names of the figures.
async fn compare(o: &Options) -> anyhow::Result<Vec<(String, Measured)>> {
    let alone = Technique::ALL.map(|t| (format!("without_{}", t.name()), vec![t]));
    let ways = [("all".to_owned(), Vec::new())].into_iter().chain(alone);
    let mut all = Vec::new();
    for (way, without) in ways.chain([("naive".to_owned(), Technique::ALL.to_vec())]) {
        let name = if without.is_empty() { "_of_compared".to_owned() } else { format!("_{way}") };
        all.push((way, measure(Options { without, name, ..o.clone() }).await?));
    }
    Ok(all)
}

async fn run_all(o: &Options) -> anyhow::Result<()> {
    let write = |part: &str, text: &str| {
        if let Some(file) = &o.write {
            return document::write(file, part, text);
        }
        println!("{text}");
        Ok(())
    };
    if !o.growth.is_empty() {
        let all = grow(o.growth.iter().map(|pods| Options { pods: *pods, ..o.clone() })).await?;
        write("pods", &document::growth(&all, |o| o.pods, "pods"))?;
    }
    if !o.grown_policies.is_empty() {
        let all = grow(o.grown_policies.iter().map(|policies| Options { policies: *policies, ..o.clone() })).await?;
        write("policies", &document::growth(&all, |o| o.policies, "policies"))?;
    }
    if o.compare {
        let all = compare(o).await?;
        let told = |f: &&Figure| COMPARED.iter().any(|name| f.name.starts_with(name));
        let figures = all.iter().flat_map(|(_, (_, figures))| figures);
        figures.filter(told).for_each(|f| println!("{}", f.json()));
        write("techniques", &document::compared(&all))?;
    }
    if o.growth.is_empty() && o.grown_policies.is_empty() && !o.compare {
        let measured = measure(o.clone()).await?;
        measured.1.iter().for_each(|f| println!("{}", f.json()));
        write("largest", &document::sentence(&measured))?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match options.operator.clone() {
        Some(api) => runtime.block_on(child::run(&options.filled(), &api)),
        None => runtime.block_on(run_all(&options)),
    }
}

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
//! [--seconds N] [--name SUFFIX]` prints one JSON object a line; what is not said is in proportion to the pods.
//! `--growth 1000,10000,30000` runs one size after the other and prints a table, or writes it into the file of `--write`
//! between the marks that stand there. What is simulated is honest about its share: the streams
//! of simulated nodes end in the operator's process without TLS, so their queues and acknowledgements are in its memory and
//! processor time, but no encryption is; a probe node's stream is whole.
#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "objects and messages that it has made itself")]
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "figures have a few digits")]

mod api;
mod child;
mod growth;
mod http;
mod probe;
mod run;
mod world;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;

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
    /// Pods of several clusters, measured one after the other, as a table.
    #[arg(long, value_delimiter = ',')]
    growth: Vec<u32>,
    /// The file that gets the table.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Put behind the names of all figures.
    #[arg(long, default_value = "")]
    name: String,
    /// The operator's part: the API server to be asked.
    #[arg(long, hide = true)]
    operator: Option<String>,
}

/// Nodes whose streams are whole: gRPC, TLS, decoded.
const PROBES: u32 = 4;

impl Options {
    /// With what was not said in proportion to the pods, and all within what the generated cluster can be.
    fn filled(mut self) -> Self {
        let or = |said: u32, share: u32| if said == 0 { share } else { said };
        self.identities = or(self.identities, self.pods / 20 * 13).min(self.pods).clamp(1, 65_000);
        self.nodes = or(self.nodes, self.pods / 20).clamp(PROBES + 1, self.pods.max(PROBES + 1));
        self.policies = or(self.policies, self.pods / 10).clamp(1, self.identities);
        self
    }
}

async fn measure(o: &Options) -> anyhow::Result<Vec<Figure>> {
    tokio::time::timeout(Duration::from_secs(o.patience), run::run(o)).await.context("it takes too long")?
}

async fn grow(o: &Options) -> anyhow::Result<()> {
    let mut sizes = Vec::new();
    for pods in &o.growth {
        let size = Options { pods: *pods, ..o.clone() }.filled();
        let figures = measure(&size).await.with_context(|| format!("{pods} pods"))?;
        sizes.push((size, figures));
    }
    let table = growth::table(&sizes);
    println!("{table}");
    o.write.iter().try_for_each(|file| growth::write(file, &table))
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match options.operator.clone() {
        Some(api) => runtime.block_on(child::run(&options.filled(), &api)),
        None if !options.growth.is_empty() => runtime.block_on(grow(&options)),
        None => runtime.block_on(async {
            for figure in measure(&options.filled()).await? {
                println!("{}", figure.json());
            }
            Ok(())
        }),
    }
}

//! `axoneme`: what a person asks of the node they are on, and of manifests.
//!
//! ```text
//!   args ──▶ status, lists, observe, top, explain, policy ─▶ agent (unix socket) ─▶ axoneme_flow::admin documents ─▶ output
//!        └─▶ lint, explain -f, policy -f ─▶ manifests ─▶ axoneme_intake ─▶ model::verdict, axoneme_compile ────┘
//! ```
//!
//! Invariants: what is printed for machines (`-o json|yaml`) is a document of its own, never a table; colours and
//! progress only on a terminal; every failure names what was asked, what was found and what mends it; the exit code
//! says which kind of failure it was. It changes nothing, on the node or in the cluster.

pub mod agent;
pub mod args;
pub mod checks;
pub mod explain;
pub mod failure;
pub mod lint;
pub mod lists;
pub mod manifests;
pub mod observe;
pub mod output;
pub mod policy;
pub mod progress;
pub mod status;
pub mod top;
pub mod version;
pub mod world;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    agent::Agent,
    args::{Cli, Command, Policy},
    failure::Failure,
    output::Output,
};

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::new(cli.color, cli.no_color);
    let ended = run(&cli, &mut out).and_then(|()| out.flush());
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    if let Some(message) = failure.message() {
        eprintln!("axoneme: {message}");
    }
    failure.code()
}

fn run(cli: &Cli, out: &mut Output) -> Result<(), Failure> {
    let agent = Agent::new(&cli.socket);
    match &cli.command {
        Command::Status(args) => status::run(&agent, args, out),
        Command::Observe(args) => observe::run(&agent, args, out),
        Command::Top(args) => top::run(&agent, args, out),
        Command::Endpoints(args) => lists::endpoints(&agent, args, out),
        Command::Identities(args) => lists::identities(&agent, args, out),
        Command::Policy { command: Policy::Tables(args) } => lists::tables(&agent, args, out),
        Command::Policy { command: Policy::WhoCan(args) } => policy::who_can(&agent, args, out),
        Command::Policy { command: Policy::Coverage(args) } => policy::coverage(&agent, args, out),
        Command::Lint(args) => lint::run(args, out),
        Command::Explain(args) => explain::run(&agent, args, out),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "axoneme", &mut script);
            out.raw(&script)
        }
        Command::Version(args) => version::run(&agent, args, out),
    }
}

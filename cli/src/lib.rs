//! `axoneme`: what a person asks of the node they are on, of manifests, and of a cluster.
//!
//! ```text
//!   args ──▶ status, lists, observe, top, explain, policy ─▶ agent (unix socket) ─▶ axoneme_flow::admin documents ─▶ output
//!        ├─▶ config, install, upgrade, uninstall, nodes ─▶ cluster (API server) ─▶ output
//!        └─▶ lint, explain -f, policy -f, simulate ─▶ manifests ─▶ axoneme_intake ─▶ model::verdict, axoneme_compile ┘
//! ```
//!
//! Invariants: what is printed for machines (`-o json|yaml`) is a document of its own, never a table; colours and
//! progress only on a terminal; every failure names what was asked, what was found and what mends it; the exit code
//! says which kind of failure it was. What changes something is named so: `config set`, `install`, `upgrade`, `uninstall` and
//! `drift --repair`; all else only looks.

pub mod agent;
pub mod args;
pub mod checks;
pub mod cluster;
pub mod config;
pub mod explain;
pub mod failure;
pub mod install;
pub mod kinds;
pub mod lint;
pub mod lists;
pub mod man;
pub mod manifests;
pub mod nodes;
pub mod observe;
pub mod output;
pub mod policy;
pub mod progress;
pub mod simulate;
pub mod status;
pub mod sysdump;
pub mod top;
pub mod version;
pub mod world;

use std::{ffi::OsStr, path::Path, process::ExitCode};

use clap::{CommandFactory, FromArgMatches};

use crate::{
    agent::Agent,
    args::{Cli, Command, Policy},
    failure::Failure,
    output::Output,
};

/// Does what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::from_arg_matches(&named(std::env::args_os().next().as_deref()).get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let mut out = Output::new(cli.color, cli.no_color);
    let ended = run(&cli, &mut out).and_then(|()| out.flush());
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    if let Some(message) = failure.message() {
        eprintln!("axoneme: {message}");
    }
    failure.code()
}

/// The command line under the name that it was called by: kubectl looks for `kubectl-axoneme` when it is asked for
/// `kubectl axoneme`.
fn named(program: Option<&OsStr>) -> clap::Command {
    let name = program.and_then(|p| Path::new(p).file_stem()).and_then(OsStr::to_str).unwrap_or_default();
    match name {
        "kubectl-axoneme" | "kubectl_axoneme" => Cli::command().bin_name("kubectl axoneme"),
        _ => Cli::command(),
    }
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
        Command::Config { command } => config::run(command, out),
        Command::Install(args) => install::install(args, out),
        Command::Upgrade(args) => install::upgrade(args, out),
        Command::Uninstall(args) => install::uninstall(args, out),
        Command::Nodes(args) => nodes::nodes(args, out),
        Command::Drift(args) => nodes::drift(&agent, args, out),
        Command::Sysdump(args) => sysdump::run(args, out),
        Command::Man { dir } => man::run(dir.as_deref(), out),
        Command::Simulate(args) => simulate::run(args, out),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "axoneme", &mut script);
            out.raw(&script)
        }
        Command::Version(args) => version::run(&agent, args, out),
    }
}

//! The node agent.

use std::process::ExitCode;

use axoneme_node_agent::{
    app,
    args::{Cli, Command},
    relay, uninstall,
};
use axoneme_runtime::{
    drain,
    telemetry::{self, Filter, Format},
};
use clap::Parser;

/// Row stream, CNI and admin sockets: none is busy for long, and the engine has a thread of its own.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = if cli.log_json { Format::Json } else { Format::Text };
    let filter = match telemetry::init(format, cli.log.as_deref().unwrap_or("info")) {
        Ok(filter) => filter,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::from(2);
        }
    };
    match execute(cli.command, cli.log.is_none().then_some(filter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, log: Option<Filter>) -> anyhow::Result<()> {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(64)
            .enable_all()
            .build()
    };
    match command {
        Command::Run(args) => runtime()?.block_on(app::run(*args, log)),
        Command::Standalone(args) => runtime()?.block_on(app::standalone(*args, log)),
        Command::Relay(args) => runtime()?.block_on(relay::run(*args)),
        Command::Uninstall(args) => {
            uninstall::uninstall(&args.places)?;
            if args.stay {
                runtime()?.block_on(drain::terminated())?;
            }
            Ok(())
        }
    }
}

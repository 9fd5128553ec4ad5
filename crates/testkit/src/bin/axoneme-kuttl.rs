//! Runs a kuttl suite on a cluster, as `kubectl kuttl test` would. Exit status 0 if all cases passed.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use axoneme_testkit::kuttl::{Cluster, Outcome, Shell, Suite};
use clap::Parser;

#[derive(Parser, Debug)]
#[command(about = "Runs tests in kuttl's layout on a cluster")]
struct Args {
    /// The suite; its folders of cases are relative to the current one.
    #[arg(long, default_value = "kuttl-test.yaml")]
    config: PathBuf,
    /// The cluster's administrator.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Only this case.
    #[arg(long)]
    test: Option<String>,
    /// What happened in cases that passed, too.
    #[arg(short, long)]
    verbose: bool,
}

/// One task: cases run side by side by waiting, not by threads.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<bool> {
    let here = std::env::current_dir().context("the current folder")?;
    let kubeconfig = here.join(&args.kubeconfig);
    let shell = Shell::new(&here, &kubeconfig);
    let mut suite = Suite::load(&args.config, &here, &shell)?;
    if let Some(name) = &args.test {
        suite.only(name)?;
    }
    let cluster = Cluster::connect(&kubeconfig).await?;
    let done = suite.run(&cluster, &shell, |outcome| tell(outcome, args.verbose)).await?;
    Ok(done.iter().all(|outcome| outcome.failure.is_none()))
}

fn tell(outcome: &Outcome, verbose: bool) {
    let word = if outcome.failure.is_none() { "PASS" } else { "FAIL" };
    println!("--- {word}: {} ({:.1}s)", outcome.case, outcome.took.as_secs_f64());
    if let Some(failure) = &outcome.failure {
        println!("    failed in step {}", failure.step);
        for line in failure.errors.iter().flat_map(|e| e.lines()) {
            println!("    {line}");
        }
    }
    if verbose || outcome.failure.is_some() {
        for line in outcome.log.iter().flat_map(|l| l.lines()) {
            println!("    | {line}");
        }
    }
}

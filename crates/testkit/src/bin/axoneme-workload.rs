//! The test workload: serves, probes, streams. Prints one JSON object a result.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::Context as _;
use axoneme_testkit::{
    probe, serve,
    stream::{self, Plan},
};
use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(about = "Serves, probes and streams for tests")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Answer on TCP and UDP ports until stopped.
    Serve {
        #[arg(long, default_value = "workload")]
        name: String,
        #[arg(long)]
        tcp: Vec<u16>,
        #[arg(long)]
        udp: Vec<u16>,
    },
    /// Probe targets, all at once, answers in their order: `tcp:HOST:PORT` or `udp:HOST:PORT`. Exit status 0 if all answered.
    Probe {
        #[arg(required = true)]
        targets: Vec<String>,
        #[arg(long, default_value_t = 1000)]
        timeout_ms: u64,
    },
    /// Send a numbered stream to an echo server and count losses. Exit status 0 whatever was lost.
    Stream {
        target: String,
        #[arg(long, default_value_t = 1000)]
        packets: u64,
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        #[arg(long, default_value_t = 2000)]
        linger_ms: u64,
    },
    /// Probe one target again and again and print the milliseconds until the outcome changes.
    Until {
        target: String,
        /// Wait for `ok` or for `timeout`.
        outcome: String,
        #[arg(long, default_value_t = 20)]
        timeout_ms: u64,
        #[arg(long, default_value_t = 30_000)]
        deadline_ms: u64,
    },
}

fn target(text: &str) -> anyhow::Result<(bool, SocketAddr)> {
    let (protocol, rest) =
        text.split_once(':').with_context(|| format!("{text:?}: want tcp:HOST:PORT or udp:HOST:PORT"))?;
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        other => anyhow::bail!("{text:?}: protocol {other:?} is neither tcp nor udp"),
    };
    let address = rest
        .to_socket_addrs()
        .with_context(|| format!("resolve {rest}"))?
        .next()
        .with_context(|| format!("{rest}: no address"))?;
    Ok((udp, address))
}

async fn ask(text: &str, timeout: Duration) -> probe::Outcome {
    match target(text) {
        Ok((true, a)) => probe::udp(a, timeout).await,
        Ok((false, a)) => probe::tcp(a, timeout).await,
        Err(e) => probe::Outcome::Failed(format!("{e:#}")),
    }
}

async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Serve { name, tcp, udp } => serve::serve(name, &tcp, &udp).await.map(|()| true),
        Command::Probe { targets, timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms);
            let asked: Vec<_> =
                targets.iter().cloned().map(|t| tokio::task::spawn(async move { ask(&t, timeout).await })).collect();
            let mut all = true;
            for (t, answer) in targets.iter().zip(asked) {
                let outcome = answer.await.context("probe")?;
                all &= matches!(outcome, probe::Outcome::Ok(_));
                println!("{}", serde_json::json!({"target": t, "outcome": outcome}));
            }
            Ok(all)
        }
        Command::Stream { target: t, packets, rate, linger_ms } => {
            let (udp, address) = target(&t)?;
            let plan = Plan { packets, rate, linger: Duration::from_millis(linger_ms) };
            let report = if udp { stream::udp(address, plan).await } else { stream::tcp(address, plan).await };
            println!("{}", serde_json::to_string(&report.with_context(|| format!("stream to {t}"))?)?);
            Ok(true)
        }
        Command::Until { target: t, outcome, timeout_ms, deadline_ms } => {
            until(&t, &outcome, timeout_ms, deadline_ms).await
        }
    }
}

async fn until(t: &str, wanted: &str, timeout_ms: u64, deadline_ms: u64) -> anyhow::Result<bool> {
    let want_ok = match wanted {
        "ok" => true,
        "timeout" => false,
        other => anyhow::bail!("{other:?}: want ok or timeout"),
    };
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(deadline_ms) {
        let began = start.elapsed();
        let outcome = ask(t, Duration::from_millis(timeout_ms)).await;
        if matches!(outcome, probe::Outcome::Ok(_)) == want_ok {
            println!("{}", serde_json::json!({"target": t, "outcome": outcome, "began_ms": began.as_millis() as u64}));
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("{}", serde_json::json!({"target": t, "outcome": "unchanged"}));
    Ok(false)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<std::process::ExitCode> {
    let ok = run(Args::parse().command).await?;
    Ok(if ok { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}

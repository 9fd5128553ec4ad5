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
    /// Probe targets, all at once, answers in their order: `tcp:`, `connect:`, `udp:`, `frag:`, `path:` or `echo:HOST:PORT` (echo: any port). Exit
    /// status 0 if all answered.
    Probe {
        #[arg(required = true)]
        targets: Vec<String>,
        #[arg(long, default_value_t = 1000)]
        timeout_ms: u64,
    },
    /// Send a numbered stream to an echo server and count losses. Exit status 0 whatever was lost.
    Stream {
        target: String,
        /// How many at most.
        #[arg(long, default_value_t = 1000)]
        packets: u64,
        /// Stop sending when standard input is closed: the stream lasts as long as what is done under it.
        #[arg(long)]
        until_closed: bool,
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        #[arg(long, default_value_t = 2000)]
        linger_ms: u64,
        /// So many addresses from the target's on, one datagram each in turn (UDP only).
        #[arg(long, default_value_t = 1)]
        addresses: u32,
    },
    /// Probe one target again and again and print when the outcome changed: `started` at once, then one
    /// JSON object with the milliseconds from there to the begin of the first probe with the wanted outcome.
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

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Tcp,
    /// Only the handshake: for servers that speak first in TLS.
    Connect,
    Udp,
    /// A datagram of 4000 bytes: it travels in fragments.
    Fragments,
    /// Datagrams of 1400 bytes until one is answered.
    Path,
    /// ICMP echo; the port says nothing.
    Echo,
}

fn target(text: &str) -> anyhow::Result<(Manner, SocketAddr)> {
    let form = || format!("{text:?}: want tcp:, connect:, udp:, frag:, path: or echo:HOST:PORT");
    let (manner, rest) = text.split_once(':').with_context(form)?;
    let manner = match manner {
        "tcp" => Manner::Tcp,
        "connect" => Manner::Connect,
        "udp" => Manner::Udp,
        "frag" => Manner::Fragments,
        "path" => Manner::Path,
        "echo" => Manner::Echo,
        _ => anyhow::bail!(form()),
    };
    let mut addresses = rest.to_socket_addrs().with_context(|| format!("resolve {rest}"))?;
    Ok((manner, addresses.next().with_context(|| format!("{rest}: no address"))?))
}

async fn ask(text: &str, timeout: Duration) -> probe::Outcome {
    match target(text) {
        Ok((Manner::Tcp, a)) => probe::tcp(a, timeout).await,
        Ok((Manner::Connect, a)) => probe::connect(a, timeout).await,
        Ok((Manner::Udp, a)) => probe::udp(a, 1, timeout).await,
        Ok((Manner::Fragments, a)) => probe::udp(a, 4000, timeout).await,
        Ok((Manner::Path, a)) => probe::persistent(a, 1400, timeout).await,
        Ok((Manner::Echo, a)) => probe::echo(a.ip(), timeout).await,
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
        Command::Stream { target: t, packets, until_closed, rate, linger_ms, addresses } => {
            let (manner, address) = target(&t)?;
            let plan = Plan { packets, rate, linger: Duration::from_millis(linger_ms) };
            let stop = stopped(until_closed);
            let report = match manner {
                Manner::Tcp if addresses > 1 => anyhow::bail!("a stream to more than one address is udp:"),
                Manner::Tcp => stream::tcp(address, plan, stop).await,
                Manner::Udp => stream::udp(address, addresses, plan, stop).await,
                Manner::Connect | Manner::Fragments | Manner::Path | Manner::Echo => {
                    anyhow::bail!("a stream is tcp: or udp:")
                }
            };
            println!("{}", serde_json::to_string(&report.with_context(|| format!("stream to {t}"))?)?);
            Ok(true)
        }
        Command::Until { target: t, outcome, timeout_ms, deadline_ms } => {
            until(&t, &outcome, timeout_ms, deadline_ms).await
        }
    }
}

/// Ends when standard input does, if that is wanted.
async fn stopped(until_closed: bool) {
    if !until_closed {
        return std::future::pending().await;
    }
    let (closed, wait) = tokio::sync::oneshot::channel();
    // a thread of its own, which nothing waits for: the runtime's would hold up the end of the process
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = closed.send(());
    });
    let _ = wait.await;
}

async fn until(t: &str, wanted: &str, timeout_ms: u64, deadline_ms: u64) -> anyhow::Result<bool> {
    let want_ok = match wanted {
        "ok" => true,
        "timeout" => false,
        other => anyhow::bail!("{other:?}: want ok or timeout"),
    };
    println!("started");
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

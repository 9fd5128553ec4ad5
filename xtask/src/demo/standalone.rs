//! `cargo xtask demo --standalone`: the policy story on one node without a cluster, from a directory of the same
//! manifests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::faults;
use super::machine::Machine;
use super::manifests::{Member, Shop};
use super::{ALLOW, BLOCK_WEB, DEFAULT_DENY, SHOP, allowed, table};
use crate::command::tail;
use crate::lab::target;
use crate::progress::{say, seconds, step, wait};
use crate::report::Case;
use crate::setup::{self, Part};
use crate::{settings, workspace};

/// Packets of the numbered stream, at [`RATE`] a second.
const PACKETS: u64 = 5_000;
const RATE: u32 = 1_000;
/// How soon a changed file must be enforced, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(10);

/// What the ladder's netns rung runs of it.
pub(crate) const CASES: &[Case] = &[
    ("standalone::the_demo_without_a_cluster_tells_the_same_story", || silently(Mode::Story)),
    ("standalone::a_killed_demo_leaves_no_process_and_no_namespace", killed_demo_leaves_nothing),
    ("standalone::faults_of_a_node_are_named_and_mended_without_a_restart", || silently(Mode::Faults)),
];

/// What process 1 of the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Tells the story and ends.
    Story,
    /// Tells the story and stays.
    Keep,
    /// Breaks what the node needs, one thing after the other.
    Faults,
}

/// Runs it. With `keep` the node lives until ctrl-C.
pub(super) fn run(keep: bool) -> Result<()> {
    let began = Instant::now();
    let mut child = start(&build()?, if keep { Mode::Keep } else { Mode::Story }, Stdio::inherit)?;
    // not left to `wait`, which would close it
    let alive = child.stdin.take();
    let status = child.wait()?;
    drop(alive);
    if !status.success() {
        bail!("the standalone demo ended with {status}");
    }
    say(format_args!("demo: {}", seconds(began.elapsed())));
    Ok(())
}

/// Builds the binaries, or takes those that were built elsewhere.
fn build() -> Result<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and BPF programs need root: run `cargo xtask demo --standalone` as root");
    }
    setup::hubble::client().context("the reasons of drops are asked with a stock Hubble client")?;
    if let Some(dir) = settings::binaries() {
        return Ok(dir);
    }
    setup::run_quietly(Part::Build)?;
    step("agent, plugin, command line, workload", workspace::build_binaries)?;
    Ok(settings::target().join("debug"))
}

/// Starts the node; it lives no longer than the returned child's standard input.
fn start(bin: &Path, mode: Mode, output: impl Fn() -> Stdio) -> Result<Child> {
    let mode = mode.to_possible_value().context("a mode has a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("__alone").arg(bin).arg(mode.get_name());
    command.stdin(Stdio::piped()).stdout(output()).stderr(output());
    command.spawn().context("starting the node")
}

/// Runs a mode to its end; what it prints is shown when it fails.
fn silently(mode: Mode) -> Result<()> {
    let mut child = start(&build()?, mode, Stdio::piped)?;
    let alive = child.stdin.take();
    let done = child.wait_with_output()?;
    drop(alive);
    if done.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| tail(&String::from_utf8_lossy(bytes), 30);
    bail!("{}\n{}", text(&done.stdout), text(&done.stderr))
}

/// Pids and names of the processes of a pid namespace.
fn members(namespace: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let process = entry.path();
        if std::fs::read_link(process.join("ns/pid")).is_ok_and(|of| of == namespace) {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.push((entry.file_name().to_string_lossy().into_owned(), name.trim().to_owned()));
        }
    }
    Ok(found)
}

/// The pipe closes as it does when the demo is killed; the workloads of the shop run by then.
fn killed_demo_leaves_nothing() -> Result<()> {
    let mut child = start(&build()?, Mode::Keep, Stdio::null)?;
    let (pid, limit, pause) = (child.id(), Duration::from_secs(30), Duration::from_millis(20));
    let namespace = wait("the node's first process", limit, pause, || {
        // of the children: the process itself stays where it was
        Ok(std::fs::read_link(format!("/proc/{pid}/ns/pid_for_children"))
            .ok()
            .filter(|of| std::fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own != *of)))
    })?;
    let names = || members(&namespace).map(|all| all.into_iter().map(|(_, name)| name).collect::<Vec<_>>());
    let started = wait("the shop's workloads", limit, pause, || {
        Ok((names()?.iter().filter(|name| name.starts_with("axoneme-workloa")).count() >= 5).then_some(()))
    });
    drop(child.stdin.take());
    child.wait()?;
    started?;
    wait("the end of all processes", Duration::from_secs(5), pause, || Ok(names()?.is_empty().then_some(())))
        .with_context(|| format!("left: {:?}", members(&namespace)))
}

/// Runs as process 1 of the node.
pub(crate) fn init(bin: &Path, mode: Mode) -> Result<()> {
    let mut machine = Machine::new(bin)?;
    if mode == Mode::Faults {
        return faults::all(&mut machine);
    }
    story(&mut machine)?;
    if mode == Mode::Keep {
        hints(&machine);
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

struct Told<'a> {
    machine: &'a mut Machine,
    shop: &'a Shop,
    services: Vec<(String, String)>,
}

fn story(machine: &mut Machine) -> Result<()> {
    let shop = Machine::shop(&manifest(SHOP)?)?;
    let took = step("axoneme-agent standalone, on a directory of manifests", || machine.start_agent())?;
    say(format_args!("     {} ms from start to ready", took.as_millis()));
    step("the shop: web, api, worker, db in network namespaces", || {
        shop.pods.iter().try_for_each(|pod| machine.start_pod(pod))?;
        machine.publish(&shop)
    })?;
    let service = |namespace: &str, name: &str, port: u16| -> Result<(String, String)> {
        Ok((format!("{name}:{port}"), target("tcp", shop.address(namespace, name)?, port)))
    };
    let services =
        vec![service("shop-front", "web", 80)?, service("shop-api", "api", 80)?, service("shop-data", "db", 5432)?];
    let mut told = Told { machine, shop: &shop, services };
    told.tables()?;
    told.kill_under_traffic()?;
    told.time_to_enforcement()
}

pub(super) fn manifest(path: &str) -> Result<String> {
    let path = settings::repository().join(path);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

impl Told<'_> {
    fn pod(&self, name: &str) -> Result<&Member> {
        self.shop.pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}"))
    }

    fn table(&self) -> Result<Vec<table::Row>> {
        let targets: Vec<String> = self.services.iter().map(|(_, target)| target.clone()).collect();
        let ask = |name: &&str| -> Result<table::Row> {
            let pod = self.pod(name)?;
            Ok(table::Row::new(&pod.name, &self.services, self.machine.probe(pod, &targets, table::PATIENCE)?))
        };
        ["web-1", "api-1", "worker-1", "db-1"].iter().map(ask).collect()
    }

    /// Waits until a probe between a pod and a service has this outcome.
    fn until(&self, from: &str, to: &str, passes: bool) -> Result<()> {
        let pod = self.pod(from)?;
        let target = self.services.iter().find(|(name, _)| name == to).map(|(_, t)| t.clone()).context("a service")?;
        wait(&format!("{from} to {to} passes: {passes}"), SOON, Duration::from_millis(5), || {
            let answers = self.machine.probe(pod, std::slice::from_ref(&target), Duration::from_millis(200))?;
            Ok((answers.iter().all(crate::lab::Outcome::passed) == passes).then_some(()))
        })
    }

    fn tables(&mut self) -> Result<()> {
        for name in ["web:80", "api:80", "db:5432"] {
            self.until("worker-1", name, true)?;
        }
        let open = self.table()?;
        table::print("1. No policy: everybody reaches everybody", &open);
        Machine::write("default-deny.yaml", &manifest(DEFAULT_DENY)?)?;
        self.until("web-1", "api:80", false)?;
        let denied = self.table()?;
        table::print("2. Default deny (only DNS is allowed)", &denied);
        self.machine.drops()?;
        Machine::write("allow.yaml", &manifest(ALLOW)?)?;
        self.until("web-1", "api:80", true)?;
        let some = self.table()?;
        table::print("3. Allowed: web → api → db", &some);
        self.machine.drops()?;
        table::expect(&open, |_, _| true).context("before any policy")?;
        table::expect(&denied, |_, _| false).context("under default deny")?;
        table::expect(&some, allowed).context("after the allow rules")
    }

    fn kill_under_traffic(&mut self) -> Result<()> {
        println!("\n4. Killing the agent under traffic (web → api, {RATE} packets a second)");
        let at = target("tcp", self.machine.address(self.pod("api-1")?)?, 8080);
        let mut stream = self.machine.stream(self.pod("web-1")?, &at, PACKETS, RATE)?;
        self.machine.kill_agent()?;
        // what is allowed passes and what is denied does not, with nobody at home
        self.until("web-1", "api:80", true)?;
        self.until("web-1", "db:5432", false)?;
        let took = self.machine.start_agent()?;
        let early = !stream.running()?;
        let r = stream.finish()?;
        println!(
            "   sent {} lost {} cut {} longest gap {} ms; the agent was back {} ms after its start",
            r.sent,
            r.lost,
            r.cut,
            r.longest_gap_ms,
            took.as_millis()
        );
        anyhow::ensure!(!early, "the stream ended before the agent was back");
        anyhow::ensure!(r.lost == 0 && r.cut == 0, "packets were lost or the connection was cut");
        Ok(())
    }

    fn time_to_enforcement(&mut self) -> Result<()> {
        println!("\n5. An incident: cut web off from api (a deny wins over every allow)");
        let web = self.pod("web-1")?.clone();
        let at = target("tcp", self.machine.address(self.pod("api-1")?)?, 8080);
        let watcher = self.machine.until(&web, &at, "timeout")?;
        let text = manifest(BLOCK_WEB)?;
        let written = Instant::now();
        Machine::write("block-web.yaml", &text)?;
        let dropped = watcher.finish()?;
        let after = dropped.saturating_duration_since(written);
        println!("   first refused packet {} ms after the file was written", after.as_millis());
        wait("the drop by block-web in the flows", SOON, Duration::from_millis(20), || {
            Ok(Machine::dropped()?.contains("\"block-web\"").then_some(()))
        })?;
        self.machine.drops()?;
        let watcher = self.machine.until(&web, &at, "ok")?;
        let removed = Instant::now();
        Machine::remove("block-web.yaml")?;
        let after = watcher.finish()?.saturating_duration_since(removed);
        println!("   file removed: allowed again after {} ms", after.as_millis());
        Ok(())
    }
}

fn hints(machine: &Machine) {
    let (pid, bin) = (machine.pid(), machine.bin().display());
    println!("\nThe node lives until ctrl-C. In another terminal, in the repository:");
    println!("  ls /proc/{pid}/root{}      # what the agent reads; change it", Machine::manifests().display());
    println!("  cp {BLOCK_WEB} /proc/{pid}/root{}/", Machine::manifests().display());
    println!("  nsenter -t {pid} -m -n {bin}/axoneme observe --follow");
    println!("  nsenter -t {pid} -m -n {bin}/axoneme status");
}

//! One node without a cluster: a process tree with its own network, mount and pid namespaces, the agent in it, and a
//! workload in a network namespace for each pod.
//!
//! ```text
//!   demo ──pipe──▶ enter: new pid and network namespace ──▶ init (process 1: own mounts; tells the story)
//!                                                            ├─ axoneme-agent standalone
//!                                                            └─ workloads, one a network namespace
//! ```
//!
//! Nothing needs to be cleaned up by code: process 1 ends when the pipe closes, so however the demo ends (done, ctrl-C,
//! `kill -9`), and the kernel then ends all that it has started and drops the namespaces, the mounts in them, the pinned
//! maps and the links.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::drops::{self, Drops};
use super::manifests::{Member, Shop};
use crate::command::{output, output_with, program, tail};
use crate::lab::{Outcome, Stream, Until, outcomes};
use crate::progress::wait;
use crate::setup;

const NODE: &str = "laptop";
const ADDRESS: &str = "192.168.77.1";
/// Everything of the node, on its own tmpfs.
const DIR: &str = "/run/axoneme";
const CONFLIST: &str = "net.d/05-axoneme.conflist";

/// Makes the namespaces and runs `init` in them. Ends as `init` does.
pub(crate) fn enter(words: &[String]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET).context("making namespaces (this needs root)")?;
    // standard input, which is the pipe, goes on to the child
    let status = Command::new(std::env::current_exe()?).arg("__alone-init").args(words).status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// The node, seen by its process 1.
#[derive(Debug)]
pub(super) struct Machine {
    bin: PathBuf,
    /// Of this process, as the machine outside sees it.
    pid: String,
    agent: Option<Child>,
    workloads: Vec<Child>,
    addresses: BTreeMap<String, String>,
    drops: Drops,
}

/// Mounts a new filesystem of this kind.
pub(super) fn mount_new(kind: &str, at: &str, options: Option<&str>) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options).with_context(|| format!("mounting {kind} on {at}"))
}

fn ip(words: &str) -> Result<()> {
    output(program("ip").args(words.split_whitespace())).map(drop)
}

/// Ends this process, and with it all others of its pid namespace, when the pipe on standard input closes.
fn end_with_the_caller() {
    std::thread::spawn(|| {
        let mut sink = [0; 64];
        while std::io::stdin().read(&mut sink).is_ok_and(|n| n > 0) {}
        std::process::exit(1);
    });
}

impl Machine {
    /// Mounts what a node has, and gives it an uplink. `bin`: directory of the binaries.
    pub(super) fn new(bin: &Path) -> Result<Self> {
        end_with_the_caller();
        // still the /proc of the machine outside
        let pid = fs::read_link("/proc/self").context("reading /proc/self")?.display().to_string();
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
        for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("tmpfs", "/run")] {
            mount_new(kind, at, None)?;
        }
        for dir in ["/run/netns", DIR] {
            fs::create_dir_all(dir)?;
        }
        ip("link set lo up")?;
        ip("link add up0 type veth peer name up1")?;
        ip(&format!("addr add {ADDRESS}/24 dev up0"))?;
        ip("link set up0 up")?;
        ip("link set up1 up")?;
        ip("route add default via 192.168.77.2")?;
        fs::create_dir_all(Self::path("manifests"))?;
        Ok(Self {
            bin: bin.to_owned(),
            pid,
            agent: None,
            workloads: Vec::new(),
            addresses: BTreeMap::new(),
            drops: Drops::default(),
        })
    }

    /// A place of the node's own.
    pub(super) fn path(name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    /// Process 1 of the node, as the machine outside sees it.
    pub(super) fn pid(&self) -> &str {
        &self.pid
    }

    /// Where the binaries are.
    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    /// The directory that the agent reads.
    pub(super) fn manifests() -> PathBuf {
        Self::path("manifests")
    }

    /// Reads manifests for this node, and gives them to the agent.
    pub(super) fn shop(manifests: &str) -> Result<Shop> {
        let shop = Shop::read(manifests, NODE, ADDRESS)?;
        Self::write("shop.json", &shop.objects())?;
        Ok(shop)
    }

    /// Writes a manifest in one step, as an editor does.
    pub(super) fn write(name: &str, text: &str) -> Result<()> {
        let fresh = Self::path("fresh");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, Self::manifests().join(name)).with_context(|| format!("writing manifest {name}"))
    }

    /// Removes a manifest.
    pub(super) fn remove(name: &str) -> Result<()> {
        fs::remove_file(Self::manifests().join(name)).with_context(|| format!("removing manifest {name}"))
    }

    /// The agent's command, behind the words of another that becomes it.
    pub(super) fn agent_command(&self, before: &[&str]) -> Command {
        let agent = self.bin.join("axoneme-agent");
        let mut command = match before {
            [] => program(agent),
            [first, rest @ ..] => {
                let mut command = program(first);
                command.args(rest).arg(agent);
                command
            }
        };
        command.args(["standalone", "--node", NODE, "--cni-install", "--manifests"]).arg(Self::manifests());
        for (flag, name) in [("--cache-dir", "cache"), ("--cni-conf-dir", "net.d"), ("--cni-bin-dir", "bin")] {
            command.arg(flag).arg(Self::path(name));
        }
        command
    }

    /// Starts the agent and waits until it serves.
    pub(super) fn start_agent(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let log = File::options().create(true).append(true).open(Self::path("agent.log"))?;
        let mut command = self.agent_command(&[]);
        self.agent = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        self.wait_for("the agent is ready", |m| Ok(m.status()?.get("ready").and_then(Value::as_bool) == Some(true)))?;
        self.wait_for("the plugin is installed", |_| Ok(Self::path(CONFLIST).exists()))?;
        Ok(began.elapsed())
    }

    /// Starts an agent that cannot begin, waits until its status is `wanted`, and ends it.
    pub(super) fn hold_agent(
        &mut self,
        before: &[&str],
        after: &[&str],
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let log = File::options().create(true).append(true).open(Self::path("agent.log"))?;
        let mut command = self.agent_command(before);
        let command = command.args(after).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.agent = Some(command.spawn()?);
        let told = self.wait_for("the agent says what it lacks", |m| Ok(wanted(&m.status()?)));
        self.kill_agent()?;
        told
    }

    /// Kills the agent as a crash would.
    pub(super) fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("an agent runs")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// What `axoneme status` says.
    pub(super) fn status(&self) -> Result<Value> {
        // its exit status tells health, which is not asked here
        let done = program(self.bin.join("axoneme")).args(["status", "-o", "json"]).output()?;
        Ok(serde_json::from_slice(&done.stdout).unwrap_or(Value::Null))
    }

    fn wait_for(&mut self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let log = || tail(&fs::read_to_string(Self::path("agent.log")).unwrap_or_default(), 12);
        let waited = wait(what, Duration::from_secs(20), Duration::from_millis(5), || {
            if let Some(status) = self.agent.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the agent ended with {status}");
            }
            Ok(holds(self)?.then_some(()))
        });
        waited.with_context(|| format!("the agent's log ends with:\n{}", log()))
    }

    /// Does what kubelet and a container runtime would: a network namespace, CNI ADD, the container's process. A pod
    /// that gets no network leaves no namespace.
    pub(super) fn start_pod(&mut self, pod: &Member) -> Result<()> {
        ip(&format!("netns add {}", pod.uid))?;
        let added = self.add_and_serve(pod);
        if added.is_err() {
            ip(&format!("netns del {}", pod.uid))?;
        }
        added
    }

    fn add_and_serve(&mut self, pod: &Member) -> Result<()> {
        let list: Value = serde_json::from_str(&fs::read_to_string(Self::path(CONFLIST))?)?;
        let mut config = list.pointer("/plugins/0").cloned().context("the plugin's configuration")?;
        for key in ["cniVersion", "name"] {
            let value = list.get(key).cloned().unwrap_or(Value::Null);
            config.as_object_mut().context("a configuration")?.insert(key.to_owned(), value);
        }
        let Member { namespace, name, uid, .. } = pod;
        let mut plugin = Command::new(Self::path("bin/axoneme-cni"));
        plugin.env_clear().env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", uid).env("CNI_IFNAME", "eth0");
        plugin.env("CNI_NETNS", format!("/run/netns/{uid}")).env("CNI_PATH", Self::path("bin"));
        plugin.env("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"));
        let result = output_with(&mut plugin, &config.to_string()).with_context(|| format!("CNI ADD of {name}"))?;
        let result: Value = serde_json::from_str(&result).context("the plugin's answer")?;
        let address = result.pointer("/ips/0/address").and_then(Value::as_str).context("an address")?;
        let address = address.split('/').next().unwrap_or(address).to_owned();
        self.addresses.insert(uid.clone(), address);
        let log = File::options().create(true).append(true).open(Self::path("workloads.log"))?;
        let mut serve = self.inside(pod);
        serve.args(&pod.words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.workloads.push(serve.spawn().with_context(|| format!("starting {name}"))?);
        Ok(())
    }

    /// The workload program in a pod's network namespace.
    fn inside(&self, pod: &Member) -> Command {
        let mut command = program("nsenter");
        command.arg(format!("--net=/run/netns/{}", pod.uid)).arg(self.bin.join("axoneme-workload"));
        command
    }

    /// Tells the agent which pods are behind which service.
    pub(super) fn publish(&self, shop: &Shop) -> Result<()> {
        Self::write("endpoints.json", &shop.slices(&self.addresses))
    }

    /// A pod's address.
    pub(super) fn address(&self, pod: &Member) -> Result<&str> {
        self.addresses.get(&pod.uid).map(String::as_str).with_context(|| format!("{} has no address", pod.name))
    }

    /// Probes all targets at once from a pod.
    pub(super) fn probe(&self, from: &Member, targets: &[String], timeout: Duration) -> Result<Vec<Outcome>> {
        let timeout = timeout.as_millis().to_string();
        let done = self.inside(from).args(["probe", "--timeout-ms", &timeout]).args(targets).output()?;
        outcomes(&String::from_utf8_lossy(&done.stdout), targets.len())
            .with_context(|| format!("probe from {}: {}", from.name, String::from_utf8_lossy(&done.stderr)))
    }

    /// Starts a numbered stream.
    pub(super) fn stream(&self, from: &Member, target: &str, packets: u64, rate: u32) -> Result<Stream> {
        let (packets, rate) = (packets.to_string(), rate.to_string());
        let mut command = self.inside(from);
        command.args(["stream", target, "--packets", &packets, "--rate", &rate]);
        Stream::start(command, format!("{} to {target}", from.name))
    }

    /// Probes until the outcome is `ok` or `timeout`.
    pub(super) fn until(&self, from: &Member, target: &str, outcome: &str) -> Result<Until> {
        let mut command = self.inside(from);
        command.args(["until", target, outcome]);
        Until::start(command, target)
    }

    /// The latest drops as a client of Hubble's API is told them, a JSON object a line.
    pub(super) fn dropped() -> Result<String> {
        // built before this node was made: here is no network
        let client = setup::hubble::client()?.display().to_string();
        let mut words = drops::question(&client).into_iter();
        output(program(words.next().unwrap_or_default()).args(words))
    }

    /// Prints why packets were dropped lately.
    pub(super) fn drops(&mut self) -> Result<()> {
        let answer = Self::dropped()?;
        self.drops.print(&[answer]);
        Ok(())
    }
}

//! `cargo xtask demo`: the main job, shown on a real cluster, or with `--standalone` the policy story on one node
//! without a cluster.

mod drops;
mod faults;
mod machine;
mod manifests;
pub(crate) mod standalone;
mod table;

pub(crate) use self::machine::enter;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cluster::Family;
use crate::lab::{Lab, Pod, Routing, SYSTEM, Stream, target};
use crate::progress::{say, seconds, step};
use crate::setup::{self, Part};

/// Options of the demo.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Leave the cluster running and say what to try next.
    #[arg(long)]
    keep: bool,
    /// Addresses of pods, services and nodes.
    #[arg(long, value_enum, default_value = "v4")]
    ip: Family,
    /// Native routing instead of the overlay.
    #[arg(long)]
    native: bool,
    /// The policy story in a minute: one node, no cluster, the agent reads a directory of the same manifests. With
    /// --keep until ctrl-C.
    #[arg(long, conflicts_with_all = ["ip", "native"])]
    standalone: bool,
}

const NAME: &str = "demo";

/// Runs it; the cluster is removed at the end, also after a failure, unless `--keep` is given.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    if args.standalone {
        return standalone::run(args.keep);
    }
    let began = Instant::now();
    setup::run_quietly(Part::Build)?;
    setup::run_quietly(Part::Cluster)?;
    setup::hubble::client()?;
    let routing = if args.native { Routing::Native } else { Routing::Overlay };
    let lab = Lab::up(NAME, 2, args.ip, routing)?;
    let told = story(&lab);
    if args.keep {
        hints(&lab);
        return told;
    }
    let ended = lab.down();
    told?;
    ended?;
    say(format_args!("demo: {}", seconds(began.elapsed())));
    Ok(())
}

/// The shop's pods.
struct Shop {
    web: Pod,
    api: Vec<Pod>,
    worker: Pod,
    db: Pod,
}

impl Shop {
    fn find(lab: &Lab) -> Result<Self> {
        Ok(Self {
            web: lab.pod("shop-front", "app=web")?,
            api: lab.pods("shop-api", "app=api")?,
            worker: lab.pod("shop-api", "app=worker")?,
            db: lab.pod("shop-data", "app=db")?,
        })
    }

    fn clients(&self) -> Result<Vec<Pod>> {
        let api = self.api.first().context("an api pod")?;
        Ok(vec![self.web.clone(), api.clone(), self.worker.clone(), self.db.clone()])
    }

    /// The api pod on another node than web.
    fn far_api(&self) -> Result<&Pod> {
        self.api.iter().find(|p| p.node != self.web.node).or(self.api.first()).context("an api pod")
    }
}

const SHOP: &str = "tools/demo/shop.yaml";
const DEFAULT_DENY: &str = "tools/demo/default-deny.yaml";
const ALLOW: &str = "tools/demo/allow.yaml";
const BLOCK_WEB: &str = "tools/demo/block-web.yaml";

fn services() -> Vec<(String, String)> {
    [("web:80", "web.shop-front", 80), ("api:80", "api.shop-api", 80), ("db:5432", "db.shop-data", 5432)]
        .map(|(name, host, port)| (name.to_owned(), format!("tcp:{host}.svc.cluster.local:{port}")))
        .to_vec()
}

/// What the allow rules allow.
fn allowed(from: &str, to: &str) -> bool {
    matches!((from, to), ("web", "api:80") | ("api", "db:5432"))
}

fn ask(lab: &Lab, clients: &[Pod]) -> Result<Vec<table::Row>> {
    let services = services();
    let targets: Vec<String> = services.iter().map(|(_, target)| target.clone()).collect();
    let one =
        |client: &Pod| Ok(table::Row::new(&client.name, &services, lab.probe(client, &targets, table::PATIENCE)?));
    clients.iter().map(one).collect()
}

fn tell_drops(lab: &Lab, drops: &mut drops::Drops) -> Result<()> {
    let agents = lab.pods(SYSTEM, "app.kubernetes.io/name=axoneme-agent")?;
    let client = setup::hubble::client()?.display().to_string();
    let question = drops::question(&client);
    let ask = |agent: &Pod| lab.cluster.node_exec(&agent.node, &question);
    let answers: Vec<String> = agents.iter().map(ask).collect::<Result<_>>()?;
    drops.print(&answers);
    Ok(())
}

fn story(lab: &Lab) -> Result<()> {
    let mut drops = drops::Drops::default();
    // what an earlier run with --keep has left
    [BLOCK_WEB, ALLOW, DEFAULT_DENY].iter().try_for_each(|file| lab.delete_file(file))?;
    step("the shop: web, api, worker, db in three namespaces", || {
        lab.apply_file(SHOP)?;
        for (namespace, name) in
            [("shop-front", "web"), ("shop-api", "api"), ("shop-api", "worker"), ("shop-data", "db")]
        {
            lab.rollout(namespace, &format!("deployment/{name}"))?;
        }
        Ok(())
    })?;
    let shop = Shop::find(lab)?;
    let clients = shop.clients()?;
    let open = ask(lab, &clients)?;
    table::print("1. No policy: everybody reaches everybody", &open);

    enforce(lab, DEFAULT_DENY, "ccnp", "", "shop-default-deny")?;
    let denied = ask(lab, &clients)?;
    table::print("2. Default deny (only DNS is allowed)", &denied);
    tell_drops(lab, &mut drops)?;

    enforce(lab, ALLOW, "cnp", "shop-data", "db-serves-api")?;
    let some = ask(lab, &clients)?;
    table::print("3. Allowed: web → api → db", &some);
    tell_drops(lab, &mut drops)?;
    table::expect(&open, |_, _| true).context("before any policy")?;
    table::expect(&denied, |_, _| false).context("under default deny")?;
    table::expect(&some, allowed).context("after the allow rules")?;

    kill_under_traffic(lab, &shop)?;
    time_to_enforcement(lab, &shop, &mut drops)
}

fn enforce(lab: &Lab, file: &str, kind: &str, namespace: &str, name: &str) -> Result<()> {
    lab.apply_file(file)?;
    let mut words = vec![kind, name];
    if !namespace.is_empty() {
        words.extend(["-n", namespace]);
    }
    let condition = lab.condition(&words, "Enforced", "True")?;
    let message = condition.get("message").and_then(serde_json::Value::as_str).unwrap_or_default();
    say(format_args!("  ok {name}: {message}"));
    Ok(())
}

fn kill_under_traffic(lab: &Lab, shop: &Shop) -> Result<()> {
    println!("\n4. Killing agents and operator under traffic (web → api on the other node, 1000 packets a second)");
    let far = shop.far_api()?;
    let udp = far.target("tcp", 0, 8080)?;
    let mut streams: Vec<Stream> = vec![lab.stream(&shop.web, &udp, 12_000, 1000)?];
    for app in ["axoneme-agent", "axoneme-operator"] {
        let label = format!("app.kubernetes.io/name={app}");
        step(&format!("delete all pods of {app} (no grace), wait for the new ones"), || {
            lab.cluster.kubectl(&[
                "-n",
                SYSTEM,
                "delete",
                "pod",
                "-l",
                &label,
                "--grace-period=0",
                "--force",
                "--wait=true",
            ])?;
            let what = if app == "axoneme-agent" { "daemonset/axoneme-agent" } else { "deployment/axoneme-operator" };
            lab.rollout(SYSTEM, what)
        })?;
    }
    for (n, mut stream) in streams.drain(..).enumerate() {
        let early = !stream.running()?;
        let r = stream.finish()?;
        println!(
            "   stream {n}: sent {} lost {} cut {} longest gap {} ms{}",
            r.sent,
            r.lost,
            r.cut,
            r.longest_gap_ms,
            if early { " (ended before the restarts did)" } else { "" }
        );
        anyhow::ensure!(r.lost == 0 && r.cut == 0, "packets were lost or the connection was cut");
    }
    Ok(())
}

fn time_to_enforcement(lab: &Lab, shop: &Shop, drops: &mut drops::Drops) -> Result<()> {
    println!("\n5. An incident: cut web off from api (a deny wins over every allow)");
    let api = shop.far_api()?;
    let address = api.addresses.first().context("an address")?;
    let at = target("tcp", address, 8080);
    let watcher = lab.until(&shop.web, &at, "timeout")?;
    let applied = Instant::now();
    lab.apply_file(BLOCK_WEB)?;
    let call = applied.elapsed();
    let dropped = watcher.finish()?;
    println!(
        "   first refused packet {} ms after kubectl started, {} ms after it returned (kubectl itself took {} ms)",
        dropped.duration_since(applied).as_millis(),
        dropped.saturating_duration_since(applied + call).as_millis(),
        call.as_millis()
    );
    tell_drops(lab, drops)?;
    lab.delete_file(BLOCK_WEB)?;
    let limit = Duration::from_secs(5);
    let back = Lab::eventually(
        "web reaches api again",
        limit,
        || lab.passes(&shop.web, &at, Duration::from_millis(200)),
        |ok| *ok,
    )?;
    println!("   deny removed: allowed again within {} ms", back.as_millis());
    Ok(())
}

fn hints(lab: &Lab) {
    println!("\nThe cluster is left running. Try:");
    println!("  export KUBECONFIG={}", lab.cluster.kubeconfig().display());
    println!("  kubectl get ciliumnetworkpolicies,networkpolicies -A");
    println!("  kubectl -n {SYSTEM} exec ds/axoneme-agent -- axoneme observe --follow");
    println!("  kubectl -n {SYSTEM} exec ds/axoneme-agent -- axoneme status");
    println!("  cargo xtask cluster down --name {NAME}");
}

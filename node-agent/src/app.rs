//! Wiring of the ways to run.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use axoneme_flow::{Archivist, Hub};
use axoneme_kernel::{grace::GracePeriods, net::Netlink};
use axoneme_model::rows::AgentRow;
use axoneme_runtime::{admin as admin_socket, apiserver::Sources, clock, drain, telemetry};
use axoneme_wire::client::{Credentials, Directory, Driver, Fixed, Replicas, Settings, TokenFile};
use nix::fcntl::{Flock, FlockArg};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    args::{Common, Places, Run, Standalone},
    base::DatapathPaths,
    bpf,
    cni::{install, server},
    discovery,
    engine::{Engine, Parts},
    gate::{self, Front, Phase},
    health, hubble, metrics, preflight,
    run::{self, Running},
    settings,
    source::RowSource,
    store::Files,
    uninstall,
};

/// Requests in hand get so long at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves a node of a cluster until SIGTERM. The kernel keeps what it has.
/// `log` is none where the command line decides what is logged.
pub async fn run(args: Run, log: Option<telemetry::Filter>) -> Result<()> {
    // the one TLS implementation of the process; whoever was first decides
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let token = Arc::new(TokenFile::new(args.token_dir.join("axoneme-token")));
    serve(&args.common, !args.no_cni_install, directory(&args)?, token, log).await
}

/// Serves a node without a cluster until SIGTERM: the operator's part runs in this process, behind the same stream.
pub async fn standalone(args: Standalone, log: Option<telemetry::Filter>) -> Result<()> {
    let operator = axoneme_operator::standalone::Standalone::start(args.manifests.clone(), &args.common.node)
        .await
        .with_context(|| format!("read manifests of {}", args.manifests.display()))?;
    let directory = Arc::new(operator.directory());
    let served = serve(&args.common, args.cni_install, directory, operator.credentials(), log).await;
    operator.stop().await;
    served
}

async fn serve(
    args: &Common,
    install: bool,
    directory: Arc<dyn Directory>,
    credentials: Arc<dyn Credentials>,
    log: Option<telemetry::Filter>,
) -> Result<()> {
    let (trigger, watcher) = drain::channel();
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    // before anything can fail: whoever asks why there is no network gets an answer
    let (front, phase) = Front::new(args.node.as_str().into());
    let admin_path = args.places.admin_socket.clone();
    let listener = admin_socket::bind(&admin_path).await?;
    tasks.spawn(admin_socket::serve(listener, admin_path, Arc::new(front), trigger.watcher()));
    let settings =
        Settings { node: args.node.as_str().into(), agent_version: env!("CARGO_PKG_VERSION").to_owned(), resume: None };
    let look = || preflight::look(&args.places.bpf_dir, args.cgroup.as_deref(), &args.host_root);
    let findings = tokio::select! {
        findings = gate::pass(look, &phase, settings.clone(), directory.clone(), credentials.clone()) => findings,
        signal = drain::terminated() => {
            tracing::info!(signal = signal?, "stopping; the node still lacks what the agent needs");
            trigger.drain(DRAIN).await;
            return Ok(());
        }
    };
    for warning in &findings.warnings {
        tracing::warn!("{warning}");
    }
    let _lock = lock(&args.places)?;
    let (driver, client, events) = Driver::new(settings, directory, credentials);
    tasks.spawn(driver.run(cancel.clone()));
    let (running, admin, health, figures) = engine(args, findings, RowSource { events, operator: Box::new(client) })?;
    if let Some(figures) = figures {
        tasks.spawn(figures.run());
    }
    uninstall::note_sockets(&args.places.state_dir, &args.hubble.hubble_socket).context("note sockets")?;
    let (denials, every) = watch::channel(Duration::ZERO);
    let told = hubble::Told { every, mail: running.mail.clone() };
    let hubble = hubble::start(&args.hubble, &args.places.admin_socket, admin.flows.clone(), told, cancel.clone())?;
    let cni_path = args.places.cni_socket.clone();
    let cni = admin_socket::bind(&cni_path).await?;
    tasks.spawn(server::serve(cni, cni_path, running.mail.clone(), watcher));
    let flows = admin.flows.clone();
    phase.send_replace(Phase::Serving(admin));
    tasks.spawn(health.run());
    tasks.spawn(settings::heed(running.settings.clone(), flows, denials, log));
    if install {
        tasks.spawn(settings::tell_runtime(running.ready.clone(), running.settings.clone(), cni_paths(args)));
    }
    let signal = drain::terminated().await?;
    tracing::info!(signal, "stopping; pods keep their network");
    trigger.drain(DRAIN).await;
    cancel.cancel();
    running.stop().await;
    hubble.stopped().await;
    tasks.shutdown().await;
    Ok(())
}

/// One agent a node.
fn lock(places: &Places) -> Result<Flock<File>> {
    std::fs::create_dir_all(&places.state_dir).with_context(|| format!("create {}", places.state_dir.display()))?;
    let path = places.state_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| anyhow::anyhow!("{}: {e}: another agent runs on this node; stop it first", path.display()))
}

fn directory(args: &Run) -> Result<Arc<dyn Directory>> {
    if !args.operator.is_empty() {
        let ca_pem = match &args.operator_ca {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?,
            None => String::new(),
        };
        return Ok(Arc::new(Fixed(Replicas { addresses: args.operator.clone(), ca_pem })));
    }
    Ok(Arc::new(discovery::Cluster::new(discovery::Settings {
        sources: Sources {
            named: args.apiserver.clone(),
            published: None,
            host_root: Some(args.common.host_root.clone()),
            in_cluster: in_cluster(),
        },
        namespace: args.namespace.clone(),
        token_dir: args.token_dir.clone(),
        cache: args.common.places.cache_dir.join("operators.json"),
        publish: args.common.places.bootstrap.clone(),
    })))
}

/// What every pod is told about the API server.
#[expect(clippy::disallowed_methods, reason = "Kubernetes gives these two as variables only")]
fn in_cluster() -> Option<(String, String)> {
    Some((std::env::var("KUBERNETES_SERVICE_HOST").ok()?, std::env::var("KUBERNETES_SERVICE_PORT").ok()?))
}

/// What serves a node.
type Serving = (Running, Admin, health::task::Task, Option<metrics::Follower>);

fn engine(args: &Common, mut findings: preflight::Findings, source: RowSource) -> Result<Serving> {
    let instance = clock::unix_millis(clock::wall()).saturating_mul(1_000_000);
    let (flows, feed) = Hub::new(&args.node, "", instance, AgentRow::default().flow_buffer as usize);
    let network = Arc::new(Netlink::open()?);
    let marker = args.places.state_dir.join(uninstall::SHORT_GRACE_PERIODS);
    let grace = Arc::new(GracePeriods::open(marker).context("switch short grace periods off again")?);
    findings.warnings.extend(grace.obstacle());
    let parts = Parts {
        node: args.node.as_str().into(),
        network: network.clone(),
        store: Arc::new(Files::open(&args.places.state_dir)?),
        clock: Arc::new(clock::System),
        paths: DatapathPaths { pin_dir: args.places.bpf_dir.clone(), cgroup: findings.cgroup },
        add_deadline: Duration::from_secs(args.add_deadline),
        warnings: findings.warnings,
        flows: Some(flows.clone()),
        grace: Some(grace.clone()),
    };
    let (factory, current) = bpf::Factory::new();
    let engine = Engine::new(parts, Box::new(factory))?;
    bpf::read_events(current.clone(), feed).context("start the event reader")?;
    remember(&flows, args.flow_history_mib << 20).context("start the keeper of old flows")?;
    let running = run::start(engine, network, Some(grace), source).context("start the engine")?;
    let figures = args.prometheus_serve_addr.map(|at| {
        let (engine, hub) = (running.mail.clone(), flows.clone());
        (at, metrics::Follower { agent: metrics::Agent::default(), engine, datapath: current, hub })
    });
    let shown = figures.as_ref().map(|(at, follower)| (*at, follower.agent.clone()));
    let (task, health) = health::task::Task::new(&args.node, running.health.clone(), running.mail.clone(), shown);
    let admin = Admin { engine: running.mail.clone(), flows, health };
    Ok((running, admin, task, figures.map(|(_, follower)| follower)))
}

/// Has flows kept that the ring has no room for any more, in so many bytes.
fn remember(flows: &Arc<Hub>, bytes: usize) -> std::io::Result<()> {
    flows.remember(bytes);
    if bytes > 0 {
        let archivist = Archivist::new(flows);
        std::thread::Builder::new().name("flow-history".to_owned()).spawn(move || archivist.run())?;
    }
    Ok(())
}

fn cni_paths(args: &Common) -> install::Paths {
    let beside = || std::env::current_exe().ok().map(|p| p.with_file_name(axoneme_cni::PLUGIN)).filter(|p| p.exists());
    install::Paths {
        config_dir: args.places.cni_conf_dir.clone(),
        bin_dir: args.places.cni_bin_dir.clone(),
        plugin: args.cni_plugin.clone().or_else(beside),
        socket: args.places.cni_socket.clone(),
        exclusive: !args.keep_other_cni,
        chained: Vec::new(),
    }
}

/// Where the plugin's files are, for removal.
pub fn installed(places: &Places) -> install::Paths {
    install::Paths {
        config_dir: places.cni_conf_dir.clone(),
        bin_dir: places.cni_bin_dir.clone(),
        plugin: None,
        socket: PathBuf::new(),
        exclusive: true,
        chained: Vec::new(),
    }
}

/// Whether an agent is running.
pub fn is_running(places: &Places) -> bool {
    let socket: &Path = &places.admin_socket;
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

//! Wiring of `axoneme-agent run`.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use axoneme_flow::Hub;
use axoneme_kernel::net::Netlink;
use axoneme_runtime::{admin as admin_socket, apiserver::Sources, clock, drain};
use axoneme_wire::client::{Directory, Driver, Fixed, Replicas, Settings, TokenFile};
use nix::fcntl::{Flock, FlockArg};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    args::{Places, Run},
    base::DatapathPaths,
    bpf,
    cni::{install, server},
    discovery,
    engine::{Engine, Parts},
    preflight,
    run::{self, Running},
    source::RowSource,
    store::Files,
};

/// Requests in hand get so long at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs until SIGTERM. The kernel keeps what it has.
pub async fn run(args: Run) -> Result<()> {
    // the one TLS implementation of the process; whoever was first decides
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let findings = preflight::look(&args.places.bpf_dir, args.cgroup.as_deref(), &args.host_root);
    for warning in &findings.warnings {
        tracing::warn!("{warning}");
    }
    if !findings.fatal.is_empty() {
        bail!("this node cannot run the agent: {}", findings.fatal.join("; "));
    }
    let _lock = lock(&args.places)?;
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let source = operator(&args, &cancel, &mut tasks)?;
    let (running, admin) = engine(&args, findings, source)?;
    let (trigger, watcher) = drain::channel();
    let sockets = [args.places.cni_socket.clone(), args.places.admin_socket.clone()];
    let (cni, adm) = (admin_socket::bind(&sockets[0]).await?, admin_socket::bind(&sockets[1]).await?);
    tasks.spawn(server::serve(cni, sockets[0].clone(), running.mail.clone(), watcher));
    tasks.spawn(admin_socket::serve(adm, sockets[1].clone(), Arc::new(admin), trigger.watcher()));
    if !args.no_cni_install {
        tasks.spawn(install_when_ready(running.ready.clone(), cni_paths(&args)));
    }
    let signal = drain::terminated().await?;
    tracing::info!(signal, "stopping; pods keep their network");
    trigger.drain(DRAIN).await;
    cancel.cancel();
    running.stop().await;
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

fn operator(args: &Run, cancel: &CancellationToken, tasks: &mut JoinSet<()>) -> Result<RowSource> {
    let settings =
        Settings { node: args.node.as_str().into(), agent_version: env!("CARGO_PKG_VERSION").to_owned(), resume: None };
    let token = Arc::new(TokenFile::new(args.token_dir.join("axoneme-token")));
    let (driver, client, events) = Driver::new(settings, directory(args)?, token);
    tasks.spawn(driver.run(cancel.clone()));
    Ok(RowSource { events, operator: Box::new(client) })
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
            host_root: Some(args.host_root.clone()),
            in_cluster: in_cluster(),
        },
        namespace: args.namespace.clone(),
        token_dir: args.token_dir.clone(),
        cache: args.places.cache_dir.join("operators.json"),
        publish: args.bootstrap.clone(),
    })))
}

/// What every pod is told about the API server.
#[expect(clippy::disallowed_methods, reason = "Kubernetes gives these two as variables only")]
fn in_cluster() -> Option<(String, String)> {
    Some((std::env::var("KUBERNETES_SERVICE_HOST").ok()?, std::env::var("KUBERNETES_SERVICE_PORT").ok()?))
}

fn engine(args: &Run, findings: preflight::Findings, source: RowSource) -> Result<(Running, Admin)> {
    let instance = clock::unix_millis(clock::wall()).saturating_mul(1_000_000);
    let (flows, feed) = Hub::new(&args.node, "", instance, args.flow_history);
    let network = Arc::new(Netlink::open()?);
    let parts = Parts {
        node: args.node.as_str().into(),
        network: network.clone(),
        store: Arc::new(Files::open(&args.places.state_dir)?),
        clock: Arc::new(clock::System),
        paths: DatapathPaths { pin_dir: args.places.bpf_dir.clone(), cgroup: findings.cgroup },
        add_deadline: Duration::from_secs(args.add_deadline),
        warnings: findings.warnings,
        flows: Some(flows.clone()),
    };
    let (factory, current) = bpf::Factory::new();
    let engine = Engine::new(parts, Box::new(factory))?;
    bpf::read_events(current, feed).context("start the event reader")?;
    let running = run::start(engine, network, source).context("start the engine")?;
    let admin = Admin { engine: running.mail.clone(), flows };
    Ok((running, admin))
}

fn cni_paths(args: &Run) -> install::Paths {
    let beside = || std::env::current_exe().ok().map(|p| p.with_file_name(axoneme_cni::PLUGIN)).filter(|p| p.exists());
    install::Paths {
        config_dir: args.places.cni_conf_dir.clone(),
        bin_dir: args.places.cni_bin_dir.clone(),
        plugin: args.cni_plugin.clone().or_else(beside),
        socket: args.places.cni_socket.clone(),
        exclusive: !args.keep_other_cni,
    }
}

/// The runtime learns of us once we can serve; from then on STATUS says how we are.
async fn install_when_ready(mut ready: watch::Receiver<bool>, paths: install::Paths) {
    if ready.wait_for(|r| *r).await.is_err() {
        return;
    }
    loop {
        let p = paths.clone();
        match tokio::task::spawn_blocking(move || install::install(&p)).await {
            Ok(Ok(wrote)) => {
                tracing::info!(wrote, dir = %paths.config_dir.display(), "the node is ready for pods");
                return;
            }
            Ok(Err(error)) => tracing::error!(%error, "the container runtime is not told of the plugin"),
            Err(error) => tracing::error!(%error, "the container runtime is not told of the plugin"),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
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
    }
}

/// Whether an agent is running.
pub fn is_running(places: &Places) -> bool {
    let socket: &Path = &places.admin_socket;
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

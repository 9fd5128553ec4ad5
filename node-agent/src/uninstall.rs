//! Removes everything that the agent has made on a host, without API server and without any record but former settings.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use axoneme_kernel::{
    grace::GracePeriods,
    net::{LINK_PREFIX, Netlink, Network},
};

use crate::{
    app,
    args::Places,
    cni::install,
    inventory::Inventory,
    store::{Files, replace_file},
};

/// Below the state directory: the kernel's grace periods are short because of us.
pub const SHORT_GRACE_PERIODS: &str = "short-grace-periods";

/// Does each part whatever becomes of the others; what could not be removed is named at the end. Safe to repeat.
pub fn uninstall(places: &Places) -> Result<()> {
    if app::is_running(places) {
        bail!("the agent is running (it serves {}): delete its DaemonSet first", places.admin_socket.display());
    }
    let network = Netlink::open()?;
    let mut problems = Vec::new();
    let mut part = |name: &str, result: Result<()>| match result {
        Ok(()) => tracing::info!("{name}: removed"),
        Err(e) => problems.push(format!("{name}: {e:#}")),
    };
    // new pods first: the runtime must not choose a plugin that nobody answers
    part("CNI configuration and plugin", install::uninstall(&app::installed(places)).map_err(Into::into));
    part("filters", axoneme_kernel::bpf::remove_filters(&places.bpf_dir).map(drop).map_err(Into::into));
    part("programs and maps", remove_datapath(&places.bpf_dir));
    part("links", remove_links(&network));
    part("routes", remove_routes(&network));
    part("nft table", network.set_masquerade(None).map_err(Into::into));
    part("settings", restore_settings(&network, places));
    let sockets = noted_sockets(&places.state_dir);
    part("state", remove_directories(places));
    for socket in sockets {
        part(&format!("socket {}", socket.display()), remove_socket(&socket));
    }
    part("socket at the peers' place", remove_peers_socket(Path::new("/run/cilium/hubble.sock")));
    if problems.is_empty() { Ok(()) } else { bail!("not everything was removed:\n  {}", problems.join("\n  ")) }
}

/// Pins are what holds links and maps: with the last pin the kernel takes programs off their devices and frees all.
fn remove_datapath(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}

fn remove_links(network: &dyn Network) -> Result<()> {
    for link in network.links()?.into_iter().filter(|l| l.name.starts_with(LINK_PREFIX)) {
        // only links that carry our mark: another product may use the prefix
        if link.alias.starts_with("axoneme") {
            network.remove_link(&link.name)?;
        }
    }
    Ok(())
}

fn remove_routes(network: &dyn Network) -> Result<()> {
    network.routes()?.iter().try_for_each(|r| network.remove_route(r)).map_err(Into::into)
}

fn restore_settings(network: &dyn Network, places: &Places) -> Result<()> {
    if !places.state_dir.exists() {
        return Ok(());
    }
    let store = Files::open(&places.state_dir)?;
    GracePeriods::open(places.state_dir.join(SHORT_GRACE_PERIODS))?;
    let problems = Inventory::load(&store)?.restore(network, &store)?;
    if problems.is_empty() { Ok(()) } else { bail!(problems.join("; ")) }
}

/// The socket that a killed agent leaves where Hubble clients look, and its directory if nothing else is in it. One that
/// somebody serves is another product's.
fn remove_peers_socket(socket: &Path) -> Result<()> {
    remove_socket(socket)?;
    if let Some(dir) = socket.parent() {
        // only if nothing else is in it
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}

fn remove_socket(socket: &Path) -> Result<()> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Document of the state directory: sockets at places that the user chose, a line each.
const SOCKETS: &str = "sockets";

/// Notes sockets that are to be bound, so that those of a killed agent can be removed.
pub fn note_sockets(state_dir: &Path, sockets: &[PathBuf]) -> Result<()> {
    let known = noted_sockets(state_dir);
    let all: BTreeSet<_> = known.iter().chain(sockets).collect();
    if all.len() > known.len() {
        let lines = all.iter().map(|s| s.display().to_string()).collect::<Vec<_>>().join("\n");
        replace_file(&state_dir.join(SOCKETS), lines.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn noted_sockets(state_dir: &Path) -> BTreeSet<PathBuf> {
    // without a document there was none
    let text = std::fs::read_to_string(state_dir.join(SOCKETS)).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

fn remove_directories(places: &Places) -> Result<()> {
    let mut all: BTreeSet<&Path> = BTreeSet::from([places.state_dir.as_path(), places.cache_dir.as_path()]);
    all.retain(|d| d.exists());
    for dir in all {
        std::fs::remove_dir_all(dir)?;
    }
    // where a killed agent served flows
    let flows = places.admin_socket.with_file_name("hubble.sock");
    for file in [&places.cni_socket, &places.admin_socket, &flows, &places.bootstrap] {
        let _ = std::fs::remove_file(file);
        // the directories that hold nothing but them: only where nothing else is left in one
        for dir in file.ancestors().skip(1).take_while(|d| d.ends_with("bootstrap") || d.ends_with("axoneme")) {
            let _ = std::fs::remove_dir(dir);
        }
    }
    Ok(())
}

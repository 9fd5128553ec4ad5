//! Where the API server is, before ClusterIPs work.
//!
//! A pod on the host network is told the ClusterIP of the API server, which nobody translates until the agents run:
//! this breaks the circle. Sources in order: what the operator of the cluster says; what a file says that the node's
//! agent has published; the kubelet's own kubeconfig, of which only `server` is read; the ClusterIP.

use std::{
    io::Write as _,
    net::ToSocketAddrs as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

/// Where a kubelet's kubeconfig usually is.
pub const KUBELET_CONFIGS: &[&str] = &[
    "/etc/kubernetes/kubelet.conf",
    "/var/lib/kubelet/kubeconfig",
    "/etc/kubernetes/kubeconfig",
    "/etc/kubernetes/bootstrap-kubelet.conf",
];

/// Why no address was found: everything that was tried.
#[derive(Debug, thiserror::Error)]
#[error("no API server found: {}. Name it: `kubectl -n axoneme-system create configmap axoneme-bootstrap --from-literal=apiserver=https://HOST:PORT`", .tried.join("; "))]
pub struct NotFound {
    pub tried: Vec<String>,
}

/// The inputs of [`find`].
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Set by the person who installs.
    pub named: Option<String>,
    /// Published by the node's agent ([`publish`]).
    pub published: Option<PathBuf>,
    /// Root of the host's file system as this process sees it, to look for [`KUBELET_CONFIGS`] in.
    pub host_root: Option<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub in_cluster: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
}

/// The first URL that accepts a TCP connection within `patience`.
///
/// # Errors
/// All that was tried, each with the reason.
pub fn find(sources: &Sources, patience: Duration) -> Result<String, NotFound> {
    let mut tried = Vec::new();
    for (origin, url) in candidates(sources, &mut tried) {
        match reachable(&url, patience) {
            Ok(()) => return Ok(url),
            Err(why) => tried.push(format!("{origin} says {url}: {why}")),
        }
    }
    Err(NotFound { tried })
}

fn candidates(sources: &Sources, tried: &mut Vec<String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(named) = &sources.named {
        found.push(("the configuration".to_owned(), named.clone()));
    }
    if let Some(path) = &sources.published {
        match std::fs::read_to_string(path) {
            Ok(text) => found.push((path.display().to_string(), text.trim().to_owned())),
            Err(e) => tried.push(format!("{}: {e}", path.display())),
        }
    }
    if let Some(root) = &sources.host_root {
        for path in KUBELET_CONFIGS {
            let path = root.join(path.trim_start_matches('/'));
            match server_of(&path) {
                Ok(url) => found.push((path.display().to_string(), url)),
                Err(why) => tried.push(format!("{}: {why}", path.display())),
            }
        }
    }
    if let Some((host, port)) = &sources.in_cluster {
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        found.push(("the environment".to_owned(), format!("https://{host}:{port}")));
    }
    found
}

fn server_of(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let config: Kubeconfig = serde_saphyr::from_str(&text).map_err(|_| "not a kubeconfig".to_owned())?;
    config.clusters.into_iter().next().map(|c| c.cluster.server).ok_or_else(|| "names no cluster".to_owned())
}

fn reachable(url: &str, patience: Duration) -> Result<(), String> {
    let authority = url.strip_prefix("https://").ok_or("not an https:// URL")?;
    let authority = authority.split('/').next().unwrap_or(authority);
    let bare = authority.rsplit(']').next().unwrap_or(authority);
    let with_port = if bare.contains(':') { authority.to_owned() } else { format!("{authority}:443") };
    let mut why = "no address".to_owned();
    for address in with_port.to_socket_addrs().map_err(|e| e.to_string())? {
        match std::net::TcpStream::connect_timeout(&address, patience) {
            Ok(_) => return Ok(()),
            Err(e) => why = e.to_string(),
        }
    }
    Err(why)
}

/// Writes the URL for others on this node, in one rename.
pub fn publish(path: &Path, url: &str) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let fresh = path.with_extension("new");
    std::fs::File::create(&fresh)?.write_all(url.as_bytes())?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn kubeconfig(root: &Path, server: &str) {
        let dir = root.join("var/lib/kubelet");
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {{server: \"{server}\", certificate-authority: /x}}\nusers: []\n"
        );
        std::fs::write(dir.join("kubeconfig"), text).unwrap();
    }

    #[test]
    fn kubelets_server_is_found_when_the_cluster_ip_is_dead() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let root = tempfile::tempdir().unwrap();
        kubeconfig(root.path(), &url);
        let sources = Sources {
            host_root: Some(root.path().into()),
            in_cluster: Some(("127.0.0.1".into(), "1".into())),
            ..Sources::default()
        };
        assert_eq!(find(&sources, PATIENCE).unwrap(), url);
    }

    #[test]
    fn published_address_goes_before_the_environment_and_every_try_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/apiserver");
        let sources = Sources {
            published: Some(path.clone()),
            host_root: Some(root.path().into()),
            in_cluster: Some(("127.0.0.1".into(), "1".into())),
            ..Sources::default()
        };
        let message = find(&sources, PATIENCE).unwrap_err().to_string();
        for part in ["run/apiserver", "etc/kubernetes/kubelet.conf", "https://127.0.0.1:1", "axoneme-bootstrap"] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        publish(&path, &url).unwrap();
        assert_eq!(find(&sources, PATIENCE).unwrap(), url);
    }

    #[test]
    fn url_forms_are_understood() {
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let named = |u: String| find(&Sources { named: Some(u), ..Sources::default() }, PATIENCE);
        assert!(named(format!("https://[::1]:{port}/")).is_ok());
        assert!(named(format!("http://[::1]:{port}")).unwrap_err().to_string().contains("not an https:// URL"));
    }
}

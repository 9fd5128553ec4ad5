//! Connections to the nodes that a peer service names.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper_util::client::legacy::connect::HttpConnector;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::pb::{
    observer::observer_client::ObserverClient,
    peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, peer_client::PeerClient},
};

/// For a connection with all of its handshakes: the kernel completes that of TCP also for a process that hangs.
const CONNECT: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer service that fails is asked again after a second, then less and less often.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// A new peer service has named all nodes after this long; what it has not named is gone.
const SETTLED: Duration = Duration::from_secs(5);

/// Files of certificates are looked at so often.
const RELOAD: Duration = Duration::from_secs(10);

/// PEM files of a client with mutual TLS. When they change, nodes are connected to anew with what they say then; what
/// is under way goes on.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Authority of the nodes' certificates.
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl ClientTls {
    fn stamps(&self) -> [Option<SystemTime>; 3] {
        [&self.ca, &self.certificate, &self.key].map(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok())
    }
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: String,
    pub(super) server_name: Option<String>,
    /// Why it cannot be connected to at all (no address, no certificate), or its connection.
    pub(super) channel: Result<Channel, String>,
}

impl Target {
    pub(super) fn client(&self) -> Result<ObserverClient<Channel>, String> {
        self.channel.clone().map(ObserverClient::new)
    }
}

pub(super) type Targets = BTreeMap<Arc<str>, Target>;

/// The nodes as they are known now.
#[derive(Debug)]
pub struct Pool {
    targets: watch::Receiver<Arc<Targets>>,
}

impl Pool {
    /// Follows the peer service at `peers` (`unix:///path`, `http://host:port` or `https://host:port`) until cancelled.
    /// While it cannot be reached, the nodes that it named last are kept. `tls` is for nodes that serve with TLS.
    pub fn start(peers: String, tls: Option<ClientTls>, cancel: CancellationToken) -> (Arc<Self>, JoinHandle<()>) {
        let (sender, targets) = watch::channel(Arc::default());
        let follow = async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = follow(peers, tls.clone(), sender.clone()) => {}
                () = renew(tls, sender) => {}
            }
        };
        let task = tokio::spawn(follow);
        (Arc::new(Self { targets }), task)
    }

    pub(super) fn targets(&self) -> Arc<Targets> {
        self.targets.borrow().clone()
    }
}

/// Connects to all nodes anew when the files change: a renewed certificate is shown and a new authority believed
/// before the old ones end. Connections that are open go on until their streams end.
async fn renew(tls: Option<ClientTls>, targets: watch::Sender<Arc<Targets>>) {
    let Some(tls) = tls else { return std::future::pending().await };
    let mut stamps = tls.stamps();
    loop {
        tokio::time::sleep(RELOAD).await;
        let new = tls.stamps();
        if new == stamps {
            continue;
        }
        stamps = new;
        tracing::info!("certificates have changed: nodes are connected to with the new ones");
        change(&targets, |all| {
            for target in all.values_mut().filter(|t| t.server_name.is_some()) {
                let channel = connection(&target.address, target.server_name.as_deref(), Some(&tls));
                // files that are written only in part are read again when the rest is there
                if channel.is_ok() || target.channel.is_err() {
                    target.channel = channel;
                }
            }
        });
    }
}

async fn follow(peers: String, tls: Option<ClientTls>, targets: watch::Sender<Arc<Targets>>) {
    let mut backoff = BACKOFF.0;
    loop {
        let begun = Instant::now();
        let error = match notified(&peers, tls.as_ref(), &targets).await {
            Ok(()) => "the stream ended".to_owned(),
            Err(error) => error,
        };
        tracing::warn!(%peers, error, "the peer service is not there; the nodes it named last are kept");
        backoff = if begun.elapsed() > SETTLED { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        tokio::time::sleep(backoff).await;
    }
}

/// One stream of notifications. The first moments tell all nodes; what they leave out is gone.
async fn notified(peers: &str, tls: Option<&ClientTls>, targets: &watch::Sender<Arc<Targets>>) -> Result<(), String> {
    let text = |e: &dyn std::error::Error| describe(e);
    let connected = tokio::time::timeout(CONNECT, endpoint(peers, tls, None)?.connect()).await;
    let late = |_| format!("no connection within {} s", CONNECT.as_secs());
    let channel = connected.map_err(late)?.map_err(|e| text(&e))?;
    let mut stream = PeerClient::new(channel).notify(NotifyRequest {}).await.map_err(|e| e.to_string())?.into_inner();
    let mut unnamed: Vec<Arc<str>> = targets.borrow().keys().cloned().collect();
    let settled = tokio::time::sleep(SETTLED);
    tokio::pin!(settled);
    loop {
        tokio::select! {
            message = stream.message() => match message.map_err(|e| e.to_string())? {
                None => return Ok(()),
                Some(n) => {
                    unnamed.retain(|name| **name != *n.name);
                    change(targets, |all| apply(all, &n, tls));
                }
            },
            () = &mut settled, if !unnamed.is_empty() => {
                let gone = std::mem::take(&mut unnamed);
                change(targets, |all| gone.iter().for_each(|name| drop(all.remove(name))));
            }
        }
    }
}

fn change(targets: &watch::Sender<Arc<Targets>>, change: impl FnOnce(&mut Targets)) {
    targets.send_modify(|all| change(Arc::make_mut(all)));
}

fn apply(all: &mut Targets, n: &ChangeNotification, tls: Option<&ClientTls>) {
    let server_name = n.tls.as_ref().map(|t| t.server_name.clone());
    match n.r#type() {
        ChangeNotificationType::PeerDeleted => drop(all.remove(&*n.name)),
        ChangeNotificationType::Unknown => {}
        ChangeNotificationType::PeerAdded | ChangeNotificationType::PeerUpdated => {
            // named again after the peer service came back: the connection that works is kept
            let same = |t: &Target| t.address == n.address && t.server_name == server_name && t.channel.is_ok();
            if !all.get(&*n.name).is_some_and(same) {
                let channel = connection(&n.address, server_name.as_deref(), tls);
                all.insert(n.name.as_str().into(), Target { address: n.address.clone(), server_name, channel });
            }
        }
    }
}

fn connection(address: &str, server_name: Option<&str>, tls: Option<&ClientTls>) -> Result<Channel, String> {
    if address.is_empty() {
        return Err("the node has no address".to_owned());
    }
    let scheme = if server_name.is_some() { "https" } else { "http" };
    let url = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
    // not `connect_lazy`, whose limit does not cover the handshake of TLS
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    Ok(endpoint(&url, tls, server_name)?.connect_with_connector_lazy(tcp))
}

fn endpoint(url: &str, tls: Option<&ClientTls>, server_name: Option<&str>) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|e| format!("{url}: {e}"))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if !url.starts_with("https:") {
        return Ok(endpoint);
    }
    let files = tls.ok_or_else(|| format!("{url}: serves with TLS, and this relay has no certificate"))?;
    let read = |path: &PathBuf| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let mut config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&files.ca)?))
        .identity(Identity::from_pem(read(&files.certificate)?, read(&files.key)?));
    if let Some(name) = server_name {
        config = config.domain_name(name);
    }
    endpoint.tls_config(config).map_err(|e| format!("{url}: {}", describe(&e)))
}

/// An error with its causes: transports hide what went wrong in them.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn certificates_that_come_or_change_later_are_taken_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let tls = ClientTls { ca: path("ca.crt"), certificate: path("tls.crt"), key: path("tls.key") };
        let mut all = Targets::new();
        let named = ChangeNotification {
            name: "n1".into(),
            address: "127.0.0.1:1".into(),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: Some(crate::pb::peer::Tls { server_name: "n1.default.hubble-grpc.cilium.io".into() }),
        };
        apply(&mut all, &named, Some(&tls));
        assert!(all["n1"].channel.as_ref().unwrap_err().contains("ca.crt"), "names the file that is missing");
        let (sender, mut targets) = watch::channel(Arc::new(all));
        let task = tokio::spawn(renew(Some(tls), sender));
        tokio::task::yield_now().await;
        // one after the other, as a kubelet on a busy node may: half of them are of no use yet
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["relay".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(path("ca.crt"), certificate.pem()).unwrap();
        tokio::time::sleep(RELOAD * 2).await;
        assert!(targets.borrow_and_update()["n1"].channel.as_ref().unwrap_err().contains("tls.crt"));
        std::fs::write(path("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(path("tls.key"), key.serialize_pem()).unwrap();
        tokio::time::sleep(RELOAD * 2).await;
        assert!(targets.borrow_and_update()["n1"].channel.is_ok());
        // spoilt files: the connection that works stays
        std::fs::write(path("tls.key"), "").unwrap();
        std::fs::remove_file(path("ca.crt")).unwrap();
        tokio::time::sleep(RELOAD * 2).await;
        assert!(targets.borrow()["n1"].channel.is_ok());
        task.abort();
    }

    /// A process that hangs: its kernel takes connections, nobody answers.
    #[tokio::test]
    async fn a_node_that_takes_connections_and_hangs_is_an_error_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let tls = ClientTls { ca: path("ca.crt"), certificate: path("tls.crt"), key: path("tls.key") };
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["relay".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(path("ca.crt"), certificate.pem()).unwrap();
        std::fs::write(path("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(path("tls.key"), key.serialize_pem()).unwrap();
        let hung = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hung.local_addr().unwrap().to_string();
        let channel = connection(&address, Some("n1.default.hubble-grpc.cilium.io"), Some(&tls)).unwrap();
        let mut client = ObserverClient::new(channel);
        let asked = client.server_status(crate::pb::observer::ServerStatusRequest {});
        let answer = tokio::time::timeout(CONNECT * 3, asked).await;
        assert!(answer.expect("it is not waited for without a limit").is_err());
        drop(hung);
    }
}

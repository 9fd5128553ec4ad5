//! Connections to the nodes that a peer service names.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::pb::{
    observer::observer_client::ObserverClient,
    peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, peer_client::PeerClient},
};

const CONNECT: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer service that fails is asked again after a second, then less and less often.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A new peer service has named all nodes after this long; what it has not named is gone.
const SETTLED: Duration = Duration::from_secs(5);

/// PEM files of a client with mutual TLS. They are read again for each new connection.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Authority of the nodes' certificates.
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
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
                () = follow(peers, tls, sender) => {}
            }
        };
        let task = tokio::spawn(follow);
        (Arc::new(Self { targets }), task)
    }

    pub(super) fn targets(&self) -> Arc<Targets> {
        self.targets.borrow().clone()
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
    let channel = endpoint(peers, tls, None)?.connect().await.map_err(|e| text(&e))?;
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
    Ok(endpoint(&url, tls, server_name)?.connect_lazy())
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

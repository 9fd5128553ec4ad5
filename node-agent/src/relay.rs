//! The relay: flows of all nodes at one address.
//!
//! A way to run this binary, not a binary of its own: the image holds one program for all that runs in a cluster, and
//! a relay is the observer's code once more. It needs no privileges and runs as a Deployment.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use axoneme_hubble::{
    relay::{self, ClientTls, Pool, Service},
    server::{self, TlsFiles},
};
use axoneme_runtime::drain;
use clap::Args;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Settings of the relay. The names are those of the peers' where they mean the same.
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// A node's service that names all nodes: `unix:///run/axoneme/hubble.sock`, `https://hubble-peer:443`.
    #[arg(long, env = "AXONEME_RELAY_PEER_SERVICE", default_value_t = format!("unix://{}", server::SOCKET))]
    pub peer_service: String,
    #[arg(long, env = "AXONEME_RELAY_LISTEN_ADDRESS", default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), relay::PORT))]
    pub listen_address: SocketAddr,
    /// PEM file of the authorities of nodes' certificates.
    #[arg(long, env = "AXONEME_RELAY_TLS_HUBBLE_SERVER_CA_FILES")]
    pub tls_hubble_server_ca_files: Option<PathBuf>,
    /// PEM file that this relay shows to nodes.
    #[arg(long, env = "AXONEME_RELAY_TLS_CLIENT_CERT_FILE")]
    pub tls_relay_client_cert_file: Option<PathBuf>,
    #[arg(long, env = "AXONEME_RELAY_TLS_CLIENT_KEY_FILE")]
    pub tls_relay_client_key_file: Option<PathBuf>,
    /// PEM file that this relay shows to clients.
    #[arg(long, env = "AXONEME_RELAY_TLS_SERVER_CERT_FILE")]
    pub tls_relay_server_cert_file: Option<PathBuf>,
    #[arg(long, env = "AXONEME_RELAY_TLS_SERVER_KEY_FILE")]
    pub tls_relay_server_key_file: Option<PathBuf>,
    /// PEM file of the authorities that clients' certificates must come from.
    #[arg(long, env = "AXONEME_RELAY_TLS_CLIENT_CA_FILES")]
    pub tls_relay_client_ca_files: Option<PathBuf>,
    /// Serve clients in clear text.
    #[arg(long, env = "AXONEME_RELAY_DISABLE_SERVER_TLS")]
    pub disable_server_tls: bool,
    /// Serve clients on the loopback addresses in clear text too: those who forward a port to this pod.
    #[arg(long, env = "AXONEME_RELAY_LOCAL_CLEAR_TEXT", conflicts_with = "disable_server_tls")]
    pub local_clear_text: bool,
    /// Where probes ask whether it serves (gRPC health, in clear text); default: nowhere.
    #[arg(long, env = "AXONEME_RELAY_HEALTH_ADDRESS")]
    pub health_address: Option<SocketAddr>,
    /// Name in lines about nodes.
    #[arg(long, env = "HOSTNAME", default_value = "relay")]
    pub name: String,
}

impl RelayArgs {
    fn to_nodes(&self) -> Result<Option<ClientTls>> {
        let files =
            (&self.tls_hubble_server_ca_files, &self.tls_relay_client_cert_file, &self.tls_relay_client_key_file);
        match files {
            (None, None, None) => Ok(None),
            (Some(ca), Some(certificate), Some(key)) => {
                Ok(Some(ClientTls { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() }))
            }
            _ => bail!(
                "--tls-hubble-server-ca-files, --tls-relay-client-cert-file and --tls-relay-client-key-file belong together; give all or none"
            ),
        }
    }

    fn to_clients(&self) -> Result<Option<TlsFiles>> {
        let files =
            (&self.tls_relay_server_cert_file, &self.tls_relay_server_key_file, &self.tls_relay_client_ca_files);
        match files {
            _ if self.disable_server_tls => Ok(None),
            (Some(certificate), Some(key), Some(client_ca)) => {
                Ok(Some(TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: client_ca.clone() }))
            }
            _ => bail!(
                "give --tls-relay-server-cert-file, --tls-relay-server-key-file and --tls-relay-client-ca-files, or --disable-server-tls"
            ),
        }
    }
}

/// Serves until SIGTERM.
pub async fn run(args: RelayArgs) -> Result<()> {
    let tls = args.to_clients()?.map(TlsFiles::load).transpose()?;
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let (pool, following) = Pool::start(args.peer_service.clone(), args.to_nodes()?, cancel.clone());
    let version = format!("axoneme {}", env!("CARGO_PKG_VERSION"));
    let routes = relay::routes(Service::new(pool, &args.name, &version)).await?;
    let listener =
        TcpListener::bind(args.listen_address).await.with_context(|| format!("listen on {}", args.listen_address))?;
    tracing::info!(address = %listener.local_addr()?, tls = tls.is_some(), peers = args.peer_service, "relaying flows");
    if let Some(address) = args.health_address {
        let health = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        tasks.spawn(server::serve_health(health, cancel.clone()));
    }
    match tls {
        Some(tls) if args.local_clear_text => {
            tasks.spawn(server::serve_tcp_and_local(listener, tls, routes, cancel.clone()))
        }
        tls => tasks.spawn(server::serve_tcp(listener, tls, routes, cancel.clone())),
    };
    tokio::select! {
        Some(_) = tasks.join_next() => {}
        signal = drain::terminated() => tracing::info!(signal = signal?, "stopping"),
    }
    cancel.cancel();
    following.await?;
    Ok(())
}

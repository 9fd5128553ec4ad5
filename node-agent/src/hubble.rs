//! Serves flows to Hubble clients and relays.
//!
//! It has a thread of its own: followers of flows must not make a pod wait that is being added, however many they are.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use axoneme_flow::Hub;
use axoneme_hubble::{
    drops,
    export::{self, Collector, Destination, Exporter, Protocol, Rotation},
    json,
    metrics::{self, Feeder, Metrics},
    node::{Node, Settings},
    server::{self, PORT, Routes, Tls, TlsFiles},
};
use axoneme_model::{Kind, ObjectRef};
use axoneme_wire::NodeEvent;
use clap::Args;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::run::Mail;

/// Serving relays is tried again so often.
const AGAIN: Duration = Duration::from_secs(2);

/// Where flows are served. The names are those of the peers' settings where they mean the same.
#[derive(Clone, Debug, Args)]
pub struct HubbleArgs {
    /// Further unix sockets to serve flows on, such as /var/run/cilium/hubble.sock, where Hubble clients in a pod of
    /// the node look; always served: `hubble.sock` beside the admin socket. May be given several times.
    #[arg(long, env = "AXONEME_HUBBLE_SOCKET", value_delimiter = ',')]
    pub hubble_socket: Vec<PathBuf>,
    /// Address that relays connect to; needs the three files below, or --hubble-disable-tls.
    #[arg(long, env = "AXONEME_HUBBLE_LISTEN_ADDRESS", default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT))]
    pub hubble_listen_address: SocketAddr,
    /// PEM file with the certificate chain of this node's server.
    #[arg(long, env = "AXONEME_HUBBLE_TLS_CERT_FILE")]
    pub hubble_tls_cert_file: Option<PathBuf>,
    #[arg(long, env = "AXONEME_HUBBLE_TLS_KEY_FILE")]
    pub hubble_tls_key_file: Option<PathBuf>,
    /// PEM file of the authorities that clients' certificates must come from.
    #[arg(long, env = "AXONEME_HUBBLE_TLS_CLIENT_CA_FILES")]
    pub hubble_tls_client_ca_files: Option<PathBuf>,
    /// Sets of metrics to count, as Hubble names them: `flow drop:sourceContext=workload|namespace
    /// flows-to-world:port`. None: no metrics.
    #[arg(long, env = "AXONEME_HUBBLE_METRICS", value_delimiter = ' ')]
    pub hubble_metrics: Vec<String>,
    /// Where Prometheus reads them, in clear text.
    #[arg(long, env = "AXONEME_HUBBLE_METRICS_SERVER", default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), metrics::PORT))]
    pub hubble_metrics_server: SocketAddr,
    /// Series that each set may have before it counts as `other`.
    #[arg(long, env = "AXONEME_HUBBLE_METRICS_SERIES", default_value_t = Metrics::SERIES)]
    pub hubble_metrics_series: usize,
    /// Serve relays in clear text to anybody who reaches the address.
    #[arg(long, env = "AXONEME_HUBBLE_DISABLE_TLS")]
    pub hubble_disable_tls: bool,
    #[command(flatten)]
    pub export: ExportArgs,
}

/// Flows into files.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// File to write flows to, a JSON object a line; none: no file.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_FILE_PATH")]
    pub hubble_export_file_path: Option<PathBuf>,
    /// Size of any file of flows, in MiB, at which it is put aside.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_FILE_MAX_SIZE_MB", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub hubble_export_file_max_size_mb: u64,
    /// Files put aside that are kept; 0 keeps all.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_FILE_MAX_BACKUPS", default_value_t = 5)]
    pub hubble_export_file_max_backups: usize,
    /// Compress files that are put aside.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_FILE_COMPRESS")]
    pub hubble_export_file_compress: bool,
    /// Export only flows that one of these filters matches: JSON of flow.FlowFilter, one after the other.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_ALLOWLIST", default_value = "")]
    pub hubble_export_allowlist: String,
    /// Export no flow that one of these filters matches.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_DENYLIST", default_value = "")]
    pub hubble_export_denylist: String,
    /// Fields to export; none: all.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_FIELDMASK", value_delimiter = ' ')]
    pub hubble_export_fieldmask: Vec<String>,
    /// Export flows with the same values in these fields as one with their number, every interval; none: each by itself.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_FIELDAGGREGATE", value_delimiter = ' ')]
    pub hubble_export_fieldaggregate: Vec<String>,
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_AGGREGATION_INTERVAL", default_value = "10s", value_parser = export::interval)]
    pub hubble_export_aggregation_interval: Duration,
    /// OpenTelemetry collector to send flows to as logs (OTLP), such as http://collector:4317.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_OTLP_ENDPOINT")]
    pub hubble_export_otlp_endpoint: Option<String>,
    /// What it speaks: `grpc`, or `http/protobuf`, to /v1/logs where its address has no path.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_OTLP_PROTOCOL", default_value = "grpc")]
    pub hubble_export_otlp_protocol: Protocol,
    /// PEM file of the authority that an https:// collector's certificate must come from.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_OTLP_CA_FILE")]
    pub hubble_export_otlp_ca_file: Option<PathBuf>,
    /// PEM files of the certificate to show it, and its key.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_OTLP_CERT_FILE")]
    pub hubble_export_otlp_cert_file: Option<PathBuf>,
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_OTLP_KEY_FILE")]
    pub hubble_export_otlp_key_file: Option<PathBuf>,
    /// File with headers for it, a line each, `name: value`: a mounted Secret. It is read again for each request.
    #[arg(long, env = "AXONEME_HUBBLE_EXPORT_OTLP_HEADERS_FILE")]
    pub hubble_export_otlp_headers_file: Option<PathBuf>,
    /// File of further exporters (YAML, `flowLogs`), which may come, change and go while the agent runs.
    #[arg(long, env = "AXONEME_HUBBLE_FLOWLOGS_CONFIG_PATH")]
    pub hubble_flowlogs_config_path: Option<PathBuf>,
}

impl ExportArgs {
    /// None: nothing is exported.
    fn settings(&self) -> Result<Option<export::Settings>> {
        let file = self.hubble_export_file_path.clone().map(|path| ("static", Destination::File(path)));
        let collector = self.collector()?.map(|c| ("static-otlp", Destination::Collector(c)));
        if file.is_none() && collector.is_none() && self.hubble_flowlogs_config_path.is_none() {
            return Ok(None);
        }
        let filters = |flag: &str, text: &str| json::filters(text).map_err(|e| anyhow!("--hubble-export-{flag}: {e}"));
        let (allow, deny) =
            (filters("allowlist", &self.hubble_export_allowlist)?, filters("denylist", &self.hubble_export_denylist)?);
        let words = |all: &[String]| all.iter().filter(|f| !f.is_empty()).cloned().collect::<Vec<_>>();
        let (mask, alike) = (words(&self.hubble_export_fieldmask), words(&self.hubble_export_fieldaggregate));
        let every = (!alike.is_empty()).then_some(self.hubble_export_aggregation_interval);
        let exporter = |(name, to)| {
            let exporter = Exporter::new(name, to, allow.clone(), deny.clone(), mask.clone())?;
            exporter.aggregated(&alike, every)
        };
        let fixed = [file, collector].into_iter().flatten().map(exporter).collect::<Result<_, _>>();
        Ok(Some(export::Settings {
            fixed: fixed.map_err(|e| anyhow!("--hubble-export-*: {e}"))?,
            changing: self.hubble_flowlogs_config_path.clone(),
            rotation: Rotation {
                max_bytes: self.hubble_export_file_max_size_mb.saturating_mul(1 << 20),
                backups: self.hubble_export_file_max_backups,
                compress: self.hubble_export_file_compress,
            },
        }))
    }

    fn collector(&self) -> Result<Option<Collector>> {
        let Some(endpoint) = &self.hubble_export_otlp_endpoint else { return Ok(None) };
        let files = export::Files {
            ca: self.hubble_export_otlp_ca_file.clone(),
            certificate: self.hubble_export_otlp_cert_file.clone(),
            key: self.hubble_export_otlp_key_file.clone(),
            headers: self.hubble_export_otlp_headers_file.clone(),
        };
        let collector = Collector::new(endpoint, files);
        collector
            .map(|c| Some(c.over(self.hubble_export_otlp_protocol)))
            .map_err(|e| anyhow!("--hubble-export-otlp-endpoint: {e}"))
    }
}

/// How relays are served.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Off,
    Clear,
    Tls(TlsFiles),
}

impl HubbleArgs {
    fn port(&self) -> Result<Port> {
        match (&self.hubble_tls_cert_file, &self.hubble_tls_key_file, &self.hubble_tls_client_ca_files) {
            _ if self.hubble_disable_tls => Ok(Port::Clear),
            (None, None, None) => Ok(Port::Off),
            (Some(certificate), Some(key), Some(client_ca)) => Ok(Port::Tls(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: client_ca.clone(),
            })),
            _ => bail!(
                "--hubble-tls-cert-file, --hubble-tls-key-file and --hubble-tls-client-ca-files belong together; give all or none"
            ),
        }
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct Serving(thread::JoinHandle<()>);

impl Serving {
    /// Waits for its end, after the token was cancelled.
    pub async fn stopped(self) {
        let _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

/// Starts to serve, until cancelled. What cannot be served is told in the log, and does not keep the agent from its
/// other work: a node without observers is better than one without network. Settings that contradict each other are
/// an error.
pub fn start(
    args: &HubbleArgs,
    beside: &Path,
    hub: Arc<Hub>,
    told: Told,
    cancel: CancellationToken,
) -> Result<Serving> {
    let (port, address) = (args.port()?, args.hubble_listen_address);
    let sets = args.hubble_metrics.iter().map(|s| s.trim()).filter(|s| !s.is_empty());
    let counted = Metrics::parse(sets, args.hubble_metrics_series)?;
    let metrics = (!args.hubble_metrics.is_empty()).then_some((counted, args.hubble_metrics_server));
    let export = args.export.settings()?;
    let own = beside.with_file_name("hubble.sock");
    let further = args.hubble_socket.iter().filter(|s| **s != own).cloned();
    let sockets = std::iter::once(own.clone()).chain(further).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serving = async move {
        let parts = Parts { sockets, relays: (port, address), metrics, export, told };
        if let Err(error) = serve(hub, parts, cancel).await {
            tracing::error!(error = format!("{error:#}"), "flows are not served");
        }
    };
    let thread = thread::Builder::new().name("hubble".to_owned()).spawn(move || runtime.block_on(serving))?;
    Ok(Serving(thread))
}

/// Where Events of denials go, and how often the same one.
#[derive(Debug)]
pub struct Told {
    pub every: watch::Receiver<Duration>,
    pub mail: mpsc::Sender<Mail>,
}

impl Told {
    async fn run(self, node: Arc<Node>, cancel: CancellationToken) {
        let Self { every, mail } = self;
        // the operator writes it: an agent may write nothing
        let tell = move |told: drops::Told| {
            let object = Some(ObjectRef::new(Kind::Pod, &told.namespace, &told.pod));
            let reason = drops::REASON.to_owned();
            mail.try_send(Mail::Tell(NodeEvent { warning: true, reason, message: told.message, object })).is_ok()
        };
        drops::run(node, every, tell, cancel).await;
    }
}

/// What is served, and where.
struct Parts {
    sockets: Vec<PathBuf>,
    relays: (Port, SocketAddr),
    metrics: Option<(Metrics, SocketAddr)>,
    export: Option<export::Settings>,
    told: Told,
}

async fn serve(hub: Arc<Hub>, parts: Parts, cancel: CancellationToken) -> Result<()> {
    let Parts { sockets, relays: (port, address), metrics, export, told } = parts;
    let settings = Settings {
        port: address.port(),
        tls: matches!(port, Port::Tls(_)),
        version: format!("axoneme {}", env!("CARGO_PKG_VERSION")),
    };
    let (node, keeper) = Node::start(hub, settings, cancel.clone());
    let routes = server::routes(&node).await?;
    let mut tasks = JoinSet::new();
    for path in sockets {
        match server::bind_unix(&path) {
            Ok(listener) => {
                tracing::info!(path = %path.display(), "flows are served");
                tasks.spawn(server::serve_unix(listener, path, routes.clone(), cancel.clone()));
            }
            Err(error) => tracing::warn!(%error, "flows are not served on this socket"),
        }
    }
    if let Some((metrics, address)) = metrics {
        let metrics = Arc::new(Mutex::new(metrics));
        tasks.spawn(Feeder::new(node.clone(), metrics.clone()).run(cancel.clone()));
        match TcpListener::bind(address).await {
            Ok(listener) => drop(tasks.spawn(metrics::serve(listener, metrics, cancel.clone()))),
            Err(error) => tracing::warn!(%error, %address, "metrics of flows are not served"),
        }
    }
    tasks.spawn(told.run(node.clone(), cancel.clone()));
    let exporting = export.map(|settings| exporting(node.clone(), settings, cancel.clone())).transpose()?;
    tasks.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tcp(port, address, routes, cancel.clone()) => {}
        }
    });
    while tasks.join_next().await.is_some() {}
    if let Some(thread) = exporting {
        // the last lines of files
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
    keeper.await?;
    Ok(())
}

/// On a thread of its own: a disk that hangs holds up no client.
fn exporting(node: Arc<Node>, settings: export::Settings, cancel: CancellationToken) -> Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || runtime.block_on(export::run(node, settings, cancel));
    Ok(thread::Builder::new().name("hubble-export".to_owned()).spawn(run)?)
}

/// Serves relays. Certificates may come later than this agent, which starts before anything else in a new cluster; an
/// address may be in use by another product that is about to go.
async fn tcp(port: Port, address: SocketAddr, routes: Routes, cancel: CancellationToken) {
    let mut told = String::new();
    let (listener, tls) = loop {
        match listen(&port, address).await {
            Ok(Some(listening)) => break listening,
            Ok(None) => return,
            Err(error) => {
                let error = format!("{error:#}");
                if error != told {
                    tracing::warn!(error, "flows are not served to relays yet");
                    told = error;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    tracing::info!(%address, tls = tls.is_some(), "flows are served to relays");
    server::serve_tcp(listener, tls, routes, cancel).await;
}

async fn listen(port: &Port, address: SocketAddr) -> Result<Option<(TcpListener, Option<Tls>)>> {
    let tls = match port {
        Port::Off => return Ok(None),
        Port::Clear => None,
        Port::Tls(files) => Some(files.clone().load()?),
    };
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    Ok(Some((listener, tls)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        hubble: HubbleArgs,
    }

    fn port(args: &[&str]) -> Result<Port> {
        let line = <Line as clap::Parser>::parse_from(std::iter::once(&"x").chain(args));
        line.hubble.port()
    }

    #[test]
    fn what_is_exported_is_judged_at_start() {
        let settings = |args: &[&str]| {
            let line = <Line as clap::Parser>::parse_from(std::iter::once(&"x").chain(args));
            line.hubble.export.settings()
        };
        assert!(settings(&[]).unwrap().is_none());
        let file = "--hubble-export-file-path=/tmp/x/events.log";
        let drops = "--hubble-export-allowlist={\"verdict\":[\"DROPPED\"]} {\"reply\":[true]}";
        let some = settings(&[file, drops, "--hubble-export-fieldmask=uuid verdict"]).unwrap().unwrap();
        assert_eq!((some.fixed.len(), some.rotation.max_bytes, some.rotation.backups), (1, 10 << 20, 5));
        assert!(settings(&["--hubble-flowlogs-config-path=/none"]).unwrap().unwrap().fixed.is_empty());
        let both = settings(&[file, "--hubble-export-otlp-endpoint=http://c:4317"]).unwrap().unwrap();
        assert_eq!(both.fixed.iter().map(|e| &*e.name).collect::<Vec<_>>(), ["static", "static-otlp"]);
        assert!(settings(&["--hubble-export-otlp-endpoint=c"]).is_err());
        let headers = "--hubble-export-otlp-headers-file=/h";
        assert!(settings(&["--hubble-export-otlp-endpoint=http://c:4317", headers]).is_err(), "in clear text");
        let tls = ["--hubble-export-otlp-endpoint=https://c:4317", "--hubble-export-otlp-ca-file=/ca", headers];
        assert_eq!(settings(&tls).unwrap().unwrap().fixed.len(), 1);
        assert!(settings(&[file, "--hubble-export-fieldaggregate=verdict source.namespace"]).is_ok());
        assert!(settings(&[file, "--hubble-export-fieldaggregate=colour"]).is_err());
        for bad in ["--hubble-export-allowlist={", "--hubble-export-denylist={\"x\":1}", "--hubble-export-fieldmask=x"]
        {
            assert!(settings(&[file, bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn relays_are_served_with_mutual_tls_or_by_an_explicit_wish() {
        let files = ["--hubble-tls-cert-file=c", "--hubble-tls-key-file=k", "--hubble-tls-client-ca-files=a"];
        assert_eq!(port(&[]).unwrap(), Port::Off);
        assert_eq!(port(&["--hubble-disable-tls"]).unwrap(), Port::Clear);
        let expected = TlsFiles { certificate: "c".into(), key: "k".into(), client_ca: "a".into() };
        assert_eq!(port(&files).unwrap(), Port::Tls(expected));
        for n in 0..files.len() {
            assert!(port(&files[..n.max(1)]).is_err());
        }
    }
}

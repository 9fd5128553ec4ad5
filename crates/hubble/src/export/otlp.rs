//! Flows as log records to an OpenTelemetry collector (OTLP over gRPC, or over HTTP as protobuf).
//!
//! *Guarantees*: one batch is under way at a time and holds at most [`BATCH`] records; while a collector is slow or away
//! the exporter stands still in the history, which is the queue: what is overwritten there is counted and told as any
//! reader is told it. What a collector refuses is counted. Certificates are read again for each new connection, headers
//! for each batch: a Secret that is written anew counts from then on.

mod headers;
mod http;
#[cfg(test)]
mod tests;

use std::{error::Error, io, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use axoneme_flow::Time;
use serde::Deserialize;
use serde_json::Value;
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::stats::Stats;
use crate::{
    json, node,
    pb::{
        flow as pb,
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
        otlp::{
            AnyValue, ArrayValue, ExportLogsServiceRequest, InstrumentationScope, KeyValue, KeyValueList, LogRecord,
            Resource, ResourceLogs, ScopeLogs, any_value::Value as Any, logs_service_client::LogsServiceClient,
        },
    },
};

/// Records of a request.
pub(super) const BATCH: usize = 512;
/// For a connection, and for an answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);
/// A collector that fails is tried again after a second, then less and less often.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What is left at the end gets so long.
const LAST: Duration = Duration::from_secs(2);
const AWAY: &str = "the collector is not reached; flows wait in the history meanwhile";
/// `SeverityNumber`.
const INFO: i32 = 9;
const WARN: i32 = 13;

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `http://host:port`, or `https://host:port` with an authority.
    pub(super) endpoint: String,
    ca: Option<PathBuf>,
    /// Certificate and key of this client.
    identity: Option<(PathBuf, PathBuf)>,
    headers: Option<PathBuf>,
    protocol: Protocol,
}

/// What it is spoken to in, by OpenTelemetry's names (`OTEL_EXPORTER_OTLP_PROTOCOL`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    Http,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::Http),
            _ => Err(format!("{name:?}: must be grpc or http/protobuf")),
        }
    }
}

/// What a collector is trusted and asked by. Of secrets only the files' names are kept.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Authority of its certificate.
    pub ca: Option<PathBuf>,
    /// What is shown to it.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Headers of each request, a line each: `name: value`.
    pub headers: Option<PathBuf>,
}

impl Collector {
    /// *Errors*: a sentence with what is wrong.
    pub fn new(endpoint: &str, files: Files) -> Result<Self, String> {
        let Files { ca, certificate, key, headers } = files;
        let uri: ::http::Uri = endpoint.parse().map_err(|e| format!("{endpoint:?}: {e}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{endpoint:?}: must begin with http:// or https://")),
        };
        if uri.host().is_none_or(str::is_empty) || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(format!("{endpoint:?}: must be a host and a port, such as http://collector:4317"));
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("a client's certificate and its key belong together".to_owned()),
        };
        match (secure, &ca, &identity) {
            (true, None, _) => Err(format!("{endpoint:?}: the file of the collector's authority is needed")),
            (false, Some(_), _) | (false, _, Some(_)) => Err(format!("{endpoint:?}: certificates are for https://")),
            (false, ..) if headers.is_some() && !is_here(&uri) => {
                Err(format!("{endpoint:?}: headers are for https://: here everyone on the way would read them"))
            }
            _ => Ok(Self { endpoint: endpoint.to_owned(), ca, identity, headers, protocol: Protocol::Grpc }),
        }
    }

    /// Spoken to by that protocol; without this, gRPC.
    #[must_use]
    pub fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    fn distrusted(&self, error: &rustls::Error) -> Fault {
        let ca = self.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
        Fault::Again(format!("the collector's certificate does not hold with the authority of {ca}: {error}"))
    }

    fn connect(&self) -> Result<LogsServiceClient<Channel>, String> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
        let mut endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|e| e.to_string())?;
        if let Some(ca) = &self.ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let Some((certificate, key)) = &self.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| e.to_string())?;
        }
        Ok(LogsServiceClient::new(endpoint.connect_timeout(CONNECT).timeout(ANSWER).connect_lazy()))
    }
}

/// Whether the way there does not leave the machine.
fn is_here(uri: &::http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// A connection to a collector.
enum Client {
    Grpc(LogsServiceClient<Channel>),
    Http(http::Client),
}

/// The way to a collector.
pub(super) struct Sender {
    name: String,
    to: Collector,
    client: Option<Client>,
    batch: Vec<LogRecord>,
    node: Resource,
    stats: Arc<Stats>,
    ending: CancellationToken,
    told: String,
}

impl Sender {
    pub(super) fn new(
        name: &str,
        to: Collector,
        node: (&str, &str),
        stats: Arc<Stats>,
        ending: CancellationToken,
    ) -> Self {
        let (cluster, node) = node;
        let attributes = [
            ("service.name", "axoneme-agent"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("k8s.node.name", node),
            ("k8s.cluster.name", cluster),
        ];
        let attributes = attributes.into_iter().filter(|a| !a.1.is_empty()).map(|(k, v)| text(k, v)).collect();
        let (node, client, batch) = (Resource { attributes }, None, Vec::new());
        Self { name: name.to_owned(), to, client, batch, node, stats, ending, told: String::new() }
    }

    pub(super) async fn write(&mut self, lines: &[GetFlowsResponse]) {
        for line in lines {
            match record(line) {
                Ok(record) => self.batch.push(record),
                // a message of ours is always one of the protocol's
                Err(error) => tracing::error!(error, "a flow could not be made a log record"),
            }
            if self.batch.len() >= BATCH {
                self.flush().await;
            }
        }
    }

    /// Sends what there is, and does not come back before it is through or refused; at the end of the exporter there is
    /// one more try.
    pub(super) async fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.batch);
        let count = records.len() as u64;
        let scope = InstrumentationScope { name: "axoneme.hubble".into(), version: env!("CARGO_PKG_VERSION").into() };
        let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records: records }];
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { resource: Some(self.node.clone()), scope_logs }],
        };
        let mut wait = BACKOFF.0;
        loop {
            let last = self.ending.is_cancelled();
            let sent = if last {
                let late = |_| Err(Fault::Again("no answer in time".to_owned()));
                tokio::time::timeout(LAST, self.send(request.clone())).await.unwrap_or_else(late)
            } else {
                self.send(request.clone()).await
            };
            match sent {
                Ok(refused) => {
                    self.stats.written(count.saturating_sub(refused));
                    self.stats.refused(refused.min(count));
                    if !std::mem::take(&mut self.told).is_empty() {
                        tracing::info!(exporter = self.name, "the collector takes flows again");
                    }
                    return;
                }
                Err(Fault::Never(error)) => {
                    self.tell(&error, "the collector refuses flows");
                    self.stats.refused(count);
                    return;
                }
                Err(Fault::Again(error)) => {
                    self.client = None;
                    self.tell(&error, AWAY);
                }
                Err(Fault::Later(error, after)) => {
                    self.tell(&error, AWAY);
                    wait = wait.max(after);
                }
            }
            if last {
                self.stats.unwritten(count);
                return;
            }
            tokio::select! {
                () = self.ending.cancelled() => {}
                () = tokio::time::sleep(wait) => wait = BACKOFF.1.min(wait * 2),
            }
        }
    }

    fn tell(&mut self, error: &str, what: &str) {
        if self.told != error {
            tracing::warn!(exporter = self.name, endpoint = self.to.endpoint, error, "{what}");
            error.clone_into(&mut self.told);
        }
    }

    /// How many were refused.
    async fn send(&mut self, request: ExportLogsServiceRequest) -> Result<u64, Fault> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(match self.to.protocol {
                Protocol::Grpc => Client::Grpc(self.to.connect().map_err(Fault::Again)?),
                Protocol::Http => Client::Http(http::Client::connect(&self.to).await?),
            }),
        };
        let headers = self.to.headers.as_ref().map(|path| headers::read(path)).transpose().map_err(Fault::Again)?;
        let headers = headers.unwrap_or_default();
        match client {
            Client::Grpc(client) => {
                let mut request = tonic::Request::new(request);
                *request.metadata_mut() = headers;
                let answer = client.export(request).await.map_err(|status| Fault::of(&status, &self.to))?;
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                Ok(u64::try_from(partial.rejected_log_records).unwrap_or_default())
            }
            Client::Http(client) => client.export(&self.to, &request, headers.into_headers()).await,
        }
    }
}

#[derive(Debug)]
enum Fault {
    /// Worth another try.
    Again(String),
    /// So too, after this time.
    Later(String, Duration),
    Never(String),
}

impl Fault {
    /// What OTLP says of codes: those that are not named here are not tried again.
    fn of(status: &Status, to: &Collector) -> Self {
        if let Some(error) = certificate(status) {
            return to.distrusted(error);
        }
        let said: String = status.message().chars().take(200).collect();
        // of a connection that was not made, tonic's own words say no more than that
        let why = causes(status).last().map(ToString::to_string).filter(|why| !said.contains(why.as_str()));
        let text = format!("{:?}: {said}{}", status.code(), why.map(|w| format!(": {w}")).unwrap_or_default());
        match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // a connection that was never made
            | Code::Unknown => Self::Again(text),
            _ => Self::Never(text),
        }
    }
}

/// What is behind an error, the first cause last.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |e| (*e).source())
}

/// What is wrong with the certificate that was shown, if that is why there is no connection.
fn certificate(status: &Status) -> Option<&rustls::Error> {
    causes(status).find_map(of_tls).filter(|e| matches!(e, rustls::Error::InvalidCertificate(_)))
}

/// An input and output error holds its cause without naming it as one.
fn of_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| inner.and_then(|i| i.downcast_ref()))
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) }) }
}

fn number(key: &str, value: u32) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Any::IntValue(value.into())) }) }
}

/// A line as a log record: its body is the line as the files have it; what backends look for by a common name is an
/// attribute, too (OpenTelemetry's semantic conventions).
fn record(line: &GetFlowsResponse) -> Result<LogRecord, String> {
    let now = node::now();
    let nanos = |t: &prost_types::Timestamp| crate::convert::time(t).unwrap_or(now);
    let Time(time) = line.time.as_ref().map_or(now, nanos);
    let body = Some(any(json::value(line)?));
    let (event_name, severity, attributes) = match &line.response_types {
        Some(ResponseTypes::Flow(flow)) => {
            let bad = matches!(flow.verdict(), pb::Verdict::Dropped | pb::Verdict::Error);
            ("hubble.flow", if bad { WARN } else { INFO }, attributes(flow))
        }
        Some(ResponseTypes::LostEvents(_)) => ("hubble.lost_events", WARN, Vec::new()),
        _ => ("hubble.status", INFO, Vec::new()),
    };
    Ok(LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: now.0,
        severity_number: severity,
        severity_text: if severity == WARN { "WARN" } else { "INFO" }.to_owned(),
        body,
        attributes,
        event_name: event_name.to_owned(),
    })
}

fn attributes(flow: &pb::Flow) -> Vec<KeyValue> {
    use pb::layer4::Protocol as L4;
    let mut all = Vec::new();
    if let Some(ip) = &flow.ip {
        all.extend([("source.address", &ip.source), ("destination.address", &ip.destination)].map(|(k, v)| text(k, v)));
        all.push(text("network.type", if ip.ip_version() == pb::IpVersion::IPv6 { "ipv6" } else { "ipv4" }));
    }
    let (transport, ports) = match flow.l4.as_ref().and_then(|l| l.protocol.as_ref()) {
        Some(L4::Tcp(p)) => ("tcp", Some((p.source_port, p.destination_port))),
        Some(L4::Udp(p)) => ("udp", Some((p.source_port, p.destination_port))),
        Some(L4::Sctp(p)) => ("sctp", Some((p.source_port, p.destination_port))),
        Some(L4::IcmPv4(_)) => ("icmp", None),
        Some(L4::IcmPv6(_)) => ("icmpv6", None),
        _ => ("", None),
    };
    if !transport.is_empty() {
        all.push(text("network.transport", transport));
    }
    if let Some((source, destination)) = ports {
        all.extend([number("source.port", source), number("destination.port", destination)]);
    }
    all.push(text("hubble.verdict", flow.verdict().as_str_name()));
    if flow.drop_reason_desc != 0 {
        all.push(text("hubble.drop_reason", flow.drop_reason_desc().as_str_name()));
    }
    all
}

fn any(value: Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(b) => Some(Any::BoolValue(b)),
        Value::Number(n) => Some(match n.as_i64() {
            Some(n) => Any::IntValue(n),
            None => Any::DoubleValue(n.as_f64().unwrap_or_default()),
        }),
        Value::String(s) => Some(Any::StringValue(s)),
        Value::Array(all) => Some(Any::ArrayValue(ArrayValue { values: all.into_iter().map(any).collect() })),
        Value::Object(fields) => {
            let one = |(key, value)| KeyValue { key, value: Some(any(value)) };
            Some(Any::KvlistValue(KeyValueList { values: fields.into_iter().map(one).collect() }))
        }
    };
    AnyValue { value }
}

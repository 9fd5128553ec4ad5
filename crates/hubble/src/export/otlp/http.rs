//! OTLP over HTTP: a POST of protobuf for each batch, on one connection of HTTP/1.1 that is kept open.
//!
//! Source: the OTLP specification 1.x, "OTLP/HTTP". Which answers are worth another try is its table of response codes;
//! how long a collector wants to be left alone it says by `Retry-After` (RFC 9110, seconds).

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use super::{ANSWER, BACKOFF, CONNECT, Collector, Fault};
use crate::pb::otlp::{ExportLogsServiceRequest, ExportLogsServiceResponse};

/// Where logs are taken if the endpoint names no path.
const PATH: &str = "/v1/logs";
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// More than any collector has to say.
const SAID: usize = 64 << 10;

/// A connection that is kept.
#[derive(Debug)]
pub(super) struct Client {
    send: SendRequest<Full<Bytes>>,
    /// Ends with it.
    _connection: JoinSet<()>,
}

/// Where a batch goes: the endpoint, with the path of logs if it has none.
pub(super) fn target(endpoint: &str) -> Result<Uri, String> {
    let bad = |e: &dyn std::fmt::Display| format!("{endpoint:?}: {e}");
    let mut parts = endpoint.parse::<Uri>().map_err(|e| bad(&e))?.into_parts();
    if parts.path_and_query.as_ref().is_none_or(|p| p == "/") {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(PATH));
    }
    Uri::from_parts(parts).map_err(|e| bad(&e))
}

impl Client {
    pub(super) async fn connect(to: &Collector) -> Result<Self, Fault> {
        let again = |e: io::Error| match super::of_tls(&e) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => to.distrusted(error),
            _ => Fault::Again(format!("{}: {e}", to.endpoint)),
        };
        let made = tokio::time::timeout(CONNECT, Self::open(to)).await;
        made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(again)
    }

    async fn open(to: &Collector) -> io::Result<Self> {
        let uri = target(&to.endpoint).map_err(io::Error::other)?;
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return Self::speak(stream).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(trust(to)?));
        Self::speak(connector.connect(name, stream).await?).await
    }

    async fn speak(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Self> {
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let mut task = JoinSet::new();
        // what ends it is told to the request that is under way
        task.spawn(async move { drop(connection.await) });
        Ok(Self { send, _connection: task })
    }

    /// How many records were refused.
    pub(super) async fn export(
        &mut self,
        to: &Collector,
        batch: &ExportLogsServiceRequest,
        headers: HeaderMap,
    ) -> Result<u64, Fault> {
        let asked = tokio::time::timeout(ANSWER, self.ask(to, batch, headers)).await;
        let (status, after, body) = asked.unwrap_or_else(|_| Err(Fault::Again("no answer in time".to_owned())))?;
        if status.is_success() {
            let answer =
                ExportLogsServiceResponse::decode(body).map_err(|e| Fault::Never(format!("its answer: {e}")))?;
            let partial = answer.partial_success.unwrap_or_default();
            return Ok(u64::try_from(partial.rejected_log_records).unwrap_or_default());
        }
        Err(refusal(status, after, &body))
    }

    async fn ask(
        &mut self,
        to: &Collector,
        batch: &ExportLogsServiceRequest,
        headers: HeaderMap,
    ) -> Result<(StatusCode, Option<Duration>, Bytes), Fault> {
        let again = |e: &dyn std::fmt::Display| Fault::Again(format!("{}: {e}", to.endpoint));
        self.send.ready().await.map_err(|e| again(&e))?;
        let request = request(to, batch, headers).map_err(Fault::Again)?;
        let answer: Response<Incoming> = self.send.send_request(request).await.map_err(|e| again(&e))?;
        let (status, after) = (answer.status(), retry_after(answer.headers()));
        let body = Limited::new(answer.into_body(), SAID).collect().await.map_err(|e| again(&e))?.to_bytes();
        Ok((status, after, body))
    }
}

fn request(
    to: &Collector,
    batch: &ExportLogsServiceRequest,
    headers: HeaderMap,
) -> Result<Request<Full<Bytes>>, String> {
    let uri = target(&to.endpoint)?;
    let path = uri.path_and_query().map_or(PATH, http::uri::PathAndQuery::as_str);
    let host = uri.authority().map_or("", http::uri::Authority::as_str);
    let mut request = Request::new(Full::from(batch.encode_to_vec()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(host).map_err(|e| format!("{host}: {e}"))?;
    let own = [(header::HOST, host), (header::CONTENT_TYPE, PROTOBUF), (header::ACCEPT, PROTOBUF)];
    request.headers_mut().extend(own);
    Ok(request)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(BACKOFF.1))
}

/// What OTLP says of codes: those that are not named here are not tried again. What stands in the body may be anything, a
/// proxy's page too: only its beginning is told, and only if it is text.
fn refusal(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Fault {
    let said = std::str::from_utf8(body).unwrap_or_default();
    let said: String = said.chars().take(200).filter(|c| !c.is_control()).collect();
    let text = format!("{status}: {said}").trim_end_matches([' ', ':']).to_owned();
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => match after {
            Some(after) => Fault::Later(text, after),
            None => Fault::Again(text),
        },
        _ => Fault::Never(text),
    }
}

fn trust(to: &Collector) -> io::Result<ClientConfig> {
    let bad = |path: &std::path::Path, e: &dyn std::fmt::Display| io::Error::other(format!("{}: {e}", path.display()));
    let chain = |path: &std::path::Path| -> io::Result<Vec<CertificateDer<'static>>> {
        let found = CertificateDer::pem_file_iter(path).map_err(|e| bad(path, &e))?;
        let all = found.collect::<Result<Vec<_>, _>>().map_err(|e| bad(path, &e))?;
        if all.is_empty() { Err(bad(path, &"no certificate")) } else { Ok(all) }
    };
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &to.ca {
        for certificate in chain(ca)? {
            roots.add(certificate).map_err(|e| bad(ca, &e))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(io::Error::other)?.with_root_certificates(roots);
    let mut config = match &to.identity {
        Some((certificate, key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e))?;
            builder.with_client_auth_cert(chain(certificate)?, secret).map_err(|e| bad(certificate, &e))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests;

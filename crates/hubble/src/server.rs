//! Where the services are served: a unix socket for the node's own users, a port with mutual TLS for relays.
//!
//! *Guarantees*: a client that is gone is noticed within 30 s; a handshake that hangs holds up nobody; certificates are
//! read again when their files change, for connections from then on.

use std::{
    future::{poll_fn, ready},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tokio_util::{either::Either, sync::CancellationToken};
pub use tonic::service::Routes;

use crate::{
    node::Node,
    observer,
    pb::{DESCRIPTORS, peer::peer_server::PeerServer},
    peers,
};

/// The name that Hubble clients ask the health of.
pub const HEALTH_NAME: &str = "hubble.server.Observer";
/// Where Hubble clients look for a node's socket.
pub const PEERS_SOCKET: &str = "/var/run/cilium/hubble.sock";
/// Where ours is.
pub const SOCKET: &str = "/run/axoneme/hubble.sock";
/// Port of nodes.
pub const PORT: u16 = 4244;

/// Requests are small; filters are bounded further.
const MAX_REQUEST: usize = 1 << 20;
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one connection.
const STREAMS: u32 = 256;
/// Connections that are served or shake hands at a time, on each socket.
const CONNECTIONS: usize = 512;
/// Bytes of a stream that wait to be sent.
const SEND_BUFFER: usize = 32 << 10;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// First byte of a TLS connection: the content type of a handshake (RFC 8446, 5.1). HTTP/2 begins with `P`.
const TLS_HANDSHAKE: [u8; 1] = [22];
/// Files of certificates are looked at so often at most.
const RELOAD: Duration = Duration::from_secs(10);

/// A problem of serving: which one and where.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{path}: {source}")]
    Socket { path: String, source: io::Error },
    #[error("{path}: another process serves there")]
    Taken { path: String },
    #[error("{path}: {what}")]
    Certificate { path: String, what: String },
    #[error("tls: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// PEM files of a server with mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must have a certificate of one of these.
    pub client_ca: PathBuf,
}

/// The services of a node, with health and reflection.
pub async fn routes(node: &Arc<Node>) -> Result<Routes, ServeError> {
    let observer = observer::Server::new(observer::Service(node.clone()), MAX_REQUEST);
    let peer = PeerServer::new(peers::Service(node.clone())).max_decoding_message_size(MAX_REQUEST);
    with_health(Routes::new(observer).add_service(peer)).await
}

/// Adds health and reflection of the API.
pub(crate) async fn with_health(routes: Routes) -> Result<Routes, ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in ["", HEALTH_NAME, "observer.Observer", "peer.Peer"] {
        reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(health).add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?))
}

/// Takes the path for a socket that only its owner may use. What a dead process left there is replaced.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Socket { path: path.display().to_string(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServeError::Taken { path: path.display().to_string() });
    }
    // bound under another name and moved when its mode is right, so that it is never open to others
    let beside = path.with_extension("new");
    for old in [&beside, path] {
        match std::fs::remove_file(old) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    Ok(listener)
}

/// Serves on the socket until cancelled, and removes it.
pub async fn serve_unix(listener: UnixListener, path: PathBuf, routes: Routes, cancel: CancellationToken) {
    let accept = move |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    serve(accept, |stream| ready(Some(stream)), routes, cancel).await;
    let _ = std::fs::remove_file(&path);
}

/// Serves on the port until cancelled: with mutual TLS, or in clear text where the network is not shared.
pub async fn serve_tcp(listener: TcpListener, tls: Option<Tls>, routes: Routes, cancel: CancellationToken) {
    let accept = move |cx: &mut Context<'_>| {
        listener.poll_accept(cx).map_ok(|(stream, _)| {
            // without it lines come later, and no worse
            let _ = stream.set_nodelay(true);
            stream
        })
    };
    match tls.map(Arc::new) {
        Some(tls) => serve(accept, move |stream| shake(tls.clone(), stream), routes, cancel).await,
        None => serve(accept, |stream| ready(Some(stream)), routes, cancel).await,
    }
}

/// As [`serve_tcp`] with TLS, but clients of this very host may speak clear text: in a pod, those are its own containers
/// and who has the right to forward a port to it (`kubectl port-forward`), whom the API server has asked for that right.
pub async fn serve_tcp_and_local(listener: TcpListener, tls: Tls, routes: Routes, cancel: CancellationToken) {
    let accept = move |cx: &mut Context<'_>| {
        listener.poll_accept(cx).map_ok(|(stream, peer)| {
            let _ = stream.set_nodelay(true);
            (stream, peer.ip().to_canonical().is_loopback())
        })
    };
    let tls = Arc::new(tls);
    serve(accept, move |(stream, local)| greet(tls.clone(), stream, local), routes, cancel).await;
}

async fn greet(tls: Arc<Tls>, stream: TcpStream, local: bool) -> Option<Either<TcpStream, TlsStream<TcpStream>>> {
    if local {
        let mut first = [0];
        let read = tokio::time::timeout(HANDSHAKE, stream.peek(&mut first)).await.ok()?.ok()?;
        if read == 1 && first != TLS_HANDSHAKE {
            return Some(Either::Left(stream));
        }
    }
    shake(tls, stream).await.map(Either::Right)
}

/// Nothing but health, in clear text: what a kubelet's probe asks.
pub async fn serve_health(listener: TcpListener, cancel: CancellationToken) {
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in ["", HEALTH_NAME] {
        reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    serve_tcp(listener, None, Routes::new(health), cancel).await;
}

/// None: no client of ours, or one that takes too long.
async fn shake(tls: Arc<Tls>, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(tls.config());
    tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.ok()?.ok()
}

async fn serve<S, C, F>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    greet: impl Fn(S) -> F,
    routes: Routes,
    cancel: CancellationToken,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Option<C>> + Send + 'static,
{
    // all of them end with this function
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = poll_fn(&mut accept), if connections.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    let (greeted, routes) = (greet(stream), routes.clone());
                    connections.spawn(async move {
                        if let Some(stream) = greeted.await {
                            connection(stream, routes).await;
                        }
                    });
                }
                // out of file descriptors: it gets no better by trying at once
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

/// Not tonic's own server: that one has no bound for what waits to be sent to a client that does not read (400 KB a
/// stream), nor for connections.
async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Routes) {
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client of flows is gone");
    }
}

/// A server's certificates, read again when their files change.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    state: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    stamps: Stamps,
    looked: Instant,
}

type Stamps = [Option<std::time::SystemTime>; 3];

impl TlsFiles {
    /// Reads them. A file that is missing or of no use is an error that names it.
    pub fn load(self) -> Result<Tls, ServeError> {
        let (stamps, config) = (self.stamps(), self.config()?);
        Ok(Tls { files: self, state: Mutex::new(Loaded { config, stamps, looked: Instant::now() }) })
    }

    fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key, &self.client_ca].map(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok())
    }

    fn config(&self) -> Result<Arc<ServerConfig>, ServeError> {
        let bad = |path: &Path, what: String| ServeError::Certificate { path: path.display().to_string(), what };
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, ServeError> {
            let all: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).map_err(|e| bad(path, e.to_string()))?.collect();
            let all = all.map_err(|e| bad(path, e.to_string()))?;
            if all.is_empty() { Err(bad(path, "no certificate in it".into())) } else { Ok(all) }
        };
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.client_ca)? {
            roots.add(ca)?;
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|e| bad(&self.client_ca, e.to_string()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| bad(&self.key, e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Tls {
    /// The configuration of the files as they are; the last good one while they cannot be used.
    fn config(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= RELOAD {
            state.looked = Instant::now();
            let stamps = self.files.stamps();
            if stamps != state.stamps {
                match self.files.config() {
                    Ok(config) => (state.config, state.stamps) = (config, stamps),
                    Err(error) => tracing::warn!(%error, "the former certificate stays in use"),
                }
            }
        }
        state.config.clone()
    }
}

//! The gRPC service, with frames that are encoded already.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes};
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService, StreamingService},
    transport::Server,
};
use tonic_prost::{ProstCodec, ProstDecoder};
use tracing::warn;

use super::{
    Authenticator, Denied, Inbound,
    session::{Said, Session},
    tls::{self, BadCertificate},
};
use crate::pb;

/// Frames that may wait for a node; behind them its entries wait unencoded in the log, and are folded.
const OUTBOUND: usize = 32;
/// A node's messages are small; a report of capabilities is the largest.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Certificate chain and key, PEM.
#[derive(Clone)]
pub struct Tls {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Serves nodes: authenticates each, and runs its session.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "holds a trait object")]
pub struct Service {
    auth: Arc<dyn Authenticator>,
    inbound: mpsc::Sender<Inbound>,
    /// Whether the cluster is loaded: before, a node would be told to prune what it needs.
    ready: watch::Receiver<bool>,
    cancel: CancellationToken,
    numbers: Arc<AtomicU64>,
    sessions: TaskTracker,
}

impl Service {
    /// `inbound` is read by the owner of the hub; sessions end when `cancel` fires.
    #[must_use]
    pub fn new(
        auth: Arc<dyn Authenticator>,
        inbound: mpsc::Sender<Inbound>,
        ready: watch::Receiver<bool>,
        cancel: CancellationToken,
    ) -> Self {
        Self { auth, inbound, ready, cancel, numbers: Arc::default(), sessions: TaskTracker::new() }
    }

    async fn open(&self, request: Request<Streaming<pb::NodeMessage>>) -> Result<Response<Frames>, Status> {
        let token = bearer(&request)?.to_owned();
        Ok(Response::new(self.begin(&token, request.into_inner()).await?))
    }

    /// Serves a stream that did not come by gRPC: whole encoded messages in and out. For tests that own the network.
    ///
    /// Errors: what a node would get in place of a stream.
    pub async fn accept(
        &self,
        token: &str,
        said: impl Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    ) -> Result<ReceiverStream<Result<Bytes, Status>>, Status> {
        let decode = |m: Bytes| pb::NodeMessage::decode(m).map_err(|e| Status::internal(e.to_string()));
        self.begin(token, said.map(move |m| m.and_then(decode))).await
    }

    async fn begin(&self, token: &str, said: impl Said + 'static) -> Result<Frames, Status> {
        if !*self.ready.borrow() {
            return Err(Status::unavailable("the operator is still loading the cluster"));
        }
        let node = self.auth.node(token).await.map_err(|e| {
            warn!(reason = %e, "stream refused");
            match e {
                Denied::Invalid(text) => Status::unauthenticated(text),
                Denied::Unavailable(text) => Status::unavailable(text),
            }
        })?;
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let session = Session {
            node,
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            inbound: self.inbound.clone(),
            outbound,
            cancel: self.cancel.child_token(),
        };
        self.sessions.spawn(session.run(said));
        Ok(ReceiverStream::new(frames))
    }
}

fn bearer<T>(request: &Request<T>) -> Result<&str, Status> {
    let missing = || Status::unauthenticated("metadata authorization: a bearer token is needed");
    let header = request.metadata().get("authorization").ok_or_else(missing)?;
    header.to_str().ok().and_then(|h| h.strip_prefix("Bearer ")).ok_or_else(missing)
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
}

/// Serves on the listener until cancelled; sessions are told so first. New connections get the certificate that `tls`
/// holds then. Without `tls` in clear text, for tests and one-process set-ups only.
pub async fn serve(
    listener: TcpListener,
    tls: Option<watch::Receiver<Tls>>,
    service: Service,
) -> Result<(), ServeError> {
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true);
    let (cancel, sessions) = (service.cancel.clone(), service.sessions.clone());
    let router = server.add_service(service);
    let cancelled = cancel.clone().cancelled_owned();
    let serving = match tls {
        Some(tls) => {
            let incoming = tls::incoming(listener, tls, cancel.clone())?;
            router.serve_with_incoming_shutdown(incoming, cancelled).boxed()
        }
        None => router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), cancelled).boxed(),
    };
    let result = tokio::select! {
        r = serving => r,
        // connections that don't close by themselves must not hold up the end of the process
        () = async { cancel.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
    };
    sessions.close();
    let _ = tokio::time::timeout(Duration::from_secs(2), sessions.wait()).await;
    Ok(result?)
}

type Frames = ReceiverStream<Result<Bytes, Status>>;

impl NamedService for Service {
    const NAME: &'static str = "axoneme.v1.NodeStream";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/axoneme.v1.NodeStream/Subscribe" {
                return Ok(Status::unimplemented("the service has one method, Subscribe").into_http());
            }
            let mut grpc = Grpc::new(FrameCodec).max_decoding_message_size(MAX_MESSAGE_BYTES);
            Ok(grpc.streaming(Subscriber(service), request).await)
        })
    }
}

struct Subscriber(Service);

impl StreamingService<pb::NodeMessage> for Subscriber {
    type Response = Bytes;
    type ResponseStream = Frames;
    type Future = BoxFuture<'static, Result<Response<Frames>, Status>>;

    fn call(&mut self, request: Request<Streaming<pb::NodeMessage>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.open(request).await })
    }
}

/// Sends bytes as they are: they hold a whole encoded message.
#[derive(Clone, Copy, Debug)]
struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = Bytes;
    type Decode = pb::NodeMessage;
    type Encoder = Self;
    type Decoder = ProstDecoder<pb::NodeMessage>;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::NodeMessage, pb::NodeMessage>::default().decoder()
    }
}

impl Encoder for FrameCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(frame.len());
        buffer.put(frame);
        Ok(())
    }
}

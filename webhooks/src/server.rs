//! HTTPS: `POST /validate` with an AdmissionReview.
//!
//! *Guarantees*: every review whose uid can be read is answered by a review with status 200; what is none is told so
//! with 4xx and one line of text. Memory is bounded by [`Limits`], whatever peers send; a peer that is slow holds up
//! nobody. *Errors*: 404 and 405 for another path or method, 415 for another content type, 413 for a body that is too
//! large, 408 for one that does not come, 503 while too many bodies are under way.

mod tls;

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request as HttpRequest, Response as HttpResponse, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Body, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

pub use self::tls::{BadCertificate, Certificates};
use crate::{
    answer::Response,
    request::{Malformed, Operation, read},
    review::review,
    view::View,
};

/// Where reviews go.
pub const PATH: &str = "/validate";

/// Bodies larger than this are read in a thread of their own: others are not to wait for milliseconds.
const LARGE: usize = 64 * 1024;
/// Out of file descriptors: the next try may succeed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long open calls may take when the server ends.
const DRAIN: Duration = Duration::from_secs(2);
/// An HTTP/2 peer that is silent is asked after so long whether it lives.
const PING: Duration = Duration::from_secs(30);
const KIB: usize = 1024;

/// What peers may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one body. The API server takes objects of 1.5 MiB (3 MiB of request), and an update holds two.
    pub body: usize,
    /// Bytes of all bodies that are under way.
    pub bodies: usize,
    /// Connections; more are closed at once.
    pub connections: usize,
    /// Connections of one address: nobody but an API server has many reviews to ask for.
    pub connections_each: usize,
    /// For a handshake and for the body of a request, each.
    pub patience: Duration,
    /// Until the head of the next request. API servers close what is idle after 90 s; a connection that both ends close
    /// at once costs a review.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            bodies: 64 << 20,
            connections: 256,
            connections_each: 64,
            patience: Duration::from_secs(5),
            idle: Duration::from_mins(2),
        }
    }
}

/// One review that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// As the request says; empty for one that can't be understood.
    pub kind: &'a str,
    pub operation: Option<Operation>,
    pub allowed: bool,
    pub warnings: usize,
    /// From the whole body to the answer.
    pub took: Duration,
}

type Told = dyn Fn(&Answered<'_>) + Send + Sync;

/// What answers reviews.
#[derive(Clone)]
pub struct Server {
    view: Arc<dyn View>,
    told: Arc<Told>,
    limits: Limits,
    bodies: Arc<Semaphore>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Server {
    /// `told` hears of every review that was answered.
    pub fn new(view: Arc<dyn View>, limits: Limits, told: impl Fn(&Answered<'_>) + Send + Sync + 'static) -> Self {
        let bodies = Arc::new(Semaphore::new(limits.bodies / KIB));
        Self { view, told: Arc::new(told), limits, bodies }
    }

    /// Serves until cancelled, then lets open calls end.
    pub async fn serve(self, listener: TcpListener, certificates: Certificates, cancel: CancellationToken) {
        let (tasks, room) = (TaskTracker::new(), Room::new(&self.limits));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = cancel.cancelled() => break,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Some(place) = room.place(peer.ip()) else {
                debug!(%peer, "too many connections: closed");
                continue;
            };
            let (server, acceptor, cancel) = (self.clone(), TlsAcceptor::from(certificates.now()), cancel.clone());
            tasks.spawn(async move {
                let _place = place;
                match server.handshake(&acceptor, stream).await {
                    Ok(stream) => server.connection(stream, cancel).await,
                    Err(e) => debug!(%peer, error = %e, "handshake failed"),
                }
            });
        }
        tasks.close();
        // their own deadline is the same
        let _ = tokio::time::timeout(DRAIN, tasks.wait()).await;
    }

    async fn handshake(&self, acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let _ = stream.set_nodelay(true);
        tokio::time::timeout(self.limits.patience, acceptor.accept(stream)).await?
    }

    async fn connection(self, stream: TlsStream<TcpStream>, cancel: CancellationToken) {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let Limits { patience, idle, .. } = self.limits;
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let ended = if is_h2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(patience);
            builder.max_concurrent_streams(128).max_header_list_size(16 * 1024);
            builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            drive(connection, hyper::server::conn::http2::Connection::graceful_shutdown, cancel).await
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(64 * 1024);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            drive(connection, hyper::server::conn::http1::Connection::graceful_shutdown, cancel).await
        };
        if let Err(e) = ended {
            debug!(error = %e, "connection ended");
        }
    }

    async fn answer<B>(&self, request: HttpRequest<B>) -> HttpResponse<Full<Bytes>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, format!("there is {PATH}\n"));
        }
        if request.method() != Method::POST {
            let mut r = text(StatusCode::METHOD_NOT_ALLOWED, "reviews are posted\n".to_owned());
            r.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return r;
        }
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media = content_type.and_then(|t| t.split(';').next()).map(str::trim);
        if !media.is_some_and(|m| m.eq_ignore_ascii_case("application/json")) {
            let told = "content type must be application/json\n".to_owned();
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, told);
        }
        match self.body(request).await {
            // what it holds is held until it is answered
            Ok((body, _room)) => self.reviewed(body).await,
            Err(refusal) => refusal,
        }
    }

    /// The whole body. What it may hold is set aside before it is read.
    async fn body<B>(&self, request: HttpRequest<B>) -> Result<(Bytes, OwnedSemaphorePermit), HttpResponse<Full<Bytes>>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        let Limits { body: most, patience, .. } = self.limits;
        let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, format!("body is larger than {most} bytes\n"));
        let said = request.body().size_hint().exact();
        let size = said.map_or(most, |n| usize::try_from(n).unwrap_or(usize::MAX));
        if size > most {
            return Err(too_large());
        }
        let kib = u32::try_from(size.div_ceil(KIB)).unwrap_or(u32::MAX);
        let room = tokio::time::timeout(patience, self.bodies.clone().acquire_many_owned(kib)).await;
        let Ok(Ok(room)) = room else {
            return Err(text(StatusCode::SERVICE_UNAVAILABLE, "too many reviews are under way\n".to_owned()));
        };
        let body = Limited::new(request.into_body(), size);
        match tokio::time::timeout(patience, body.collect()).await {
            Ok(Ok(whole)) => Ok((whole.to_bytes(), room)),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(e)) => Err(text(StatusCode::BAD_REQUEST, format!("body can't be read: {e}\n"))),
            Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "body did not come\n".to_owned())),
        }
    }

    async fn reviewed(&self, body: Bytes) -> HttpResponse<Full<Bytes>> {
        if body.len() <= LARGE {
            return self.decide(&body);
        }
        let server = self.clone();
        let decided = tokio::task::spawn_blocking(move || server.decide(&body)).await;
        decided.unwrap_or_else(|_| text(StatusCode::SERVICE_UNAVAILABLE, "server ends\n".to_owned()))
    }

    fn decide(&self, body: &[u8]) -> HttpResponse<Full<Bytes>> {
        let started = Instant::now();
        let (response, asked) = match read(body) {
            Ok(request) => (review(&request, &*self.view), Some(request)),
            Err(Malformed::BadRequest { uid, message }) => (Response::bad_request(&uid, &message), None),
            Err(Malformed::NoReview(message)) => return text(StatusCode::BAD_REQUEST, format!("{message}\n")),
        };
        let body = response.to_review().to_string();
        (self.told)(&Answered {
            kind: asked.as_ref().map_or("", |r| r.kind.as_str()),
            operation: asked.as_ref().map(|r| r.operation),
            allowed: response.is_allowed(),
            warnings: response.warnings.len(),
            took: started.elapsed(),
        });
        let mut r = HttpResponse::new(Full::new(Bytes::from(body)));
        r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        r
    }
}

/// Places for connections, all together and of each address.
#[derive(Clone, Debug)]
struct Room {
    all: Arc<Semaphore>,
    each: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's; free again when it is dropped.
struct Place {
    room: Room,
    peer: IpAddr,
    _one: OwnedSemaphorePermit,
}

impl Room {
    fn new(limits: &Limits) -> Self {
        let all = Arc::new(Semaphore::new(limits.connections));
        Self { all, each: limits.connections_each, taken: Arc::default() }
    }

    fn place(&self, peer: IpAddr) -> Option<Place> {
        let one = self.all.clone().try_acquire_owned().ok()?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = taken.entry(peer).or_default();
        if *of_peer >= self.each {
            return None;
        }
        *of_peer += 1;
        Some(Place { room: self.clone(), peer, _one: one })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = taken.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Runs a connection to its end; when cancelled, until its open calls are answered.
async fn drive<C>(connection: C, shutdown: fn(Pin<&mut C>), cancel: CancellationToken) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = cancel.cancelled() => shutdown(connection.as_mut()),
    }
    tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
}

fn text(status: StatusCode, line: String) -> HttpResponse<Full<Bytes>> {
    let mut r = HttpResponse::new(Full::new(Bytes::from(line)));
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}

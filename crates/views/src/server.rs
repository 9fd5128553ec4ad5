//! HTTPS, for the API server and for whoever has a token.
//!
//! *Guarantees*: memory is bounded by [`Limits`], whatever peers send and however slowly they read; a request is answered
//! or refused with a `Status`, never with a panic. *Assumptions*: the API server's aggregator keeps few connections, with
//! many requests on each. *Errors*: those of [`crate::Refusal`].

mod answer;
mod tls;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use self::answer::{Caller, Documents};
pub use self::{
    answer::{Answered, Body},
    tls::{BadCertificate, Certificates},
};
use crate::{
    access::{Access, Gate},
    front_proxy::{FrontProxy, common_name},
    shelf::Shelf,
};

/// Out of file descriptors: the next try may succeed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long open calls may take when the server ends.
const DRAIN: Duration = Duration::from_secs(2);
/// An HTTP/2 peer that is silent is asked after so long whether it lives.
const PING: Duration = Duration::from_secs(30);

/// What peers may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections; more are closed at once.
    pub connections: usize,
    /// Connections of one address: an API server keeps few.
    pub connections_each: usize,
    /// Watches; more are told to try again.
    pub watches: usize,
    /// For a handshake.
    pub patience: Duration,
    /// Until the head of the next request.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_each: 64,
            watches: 512,
            patience: Duration::from_secs(5),
            idle: Duration::from_mins(2),
        }
    }
}

type Told = dyn Fn(&Answered<'_>) + Send + Sync;

/// What answers requests.
#[derive(Clone)]
pub struct Server {
    shelf: Arc<Shelf>,
    gate: Arc<Gate>,
    documents: Arc<Documents>,
    watches: Arc<Semaphore>,
    limits: Limits,
    told: Arc<Told>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Server {
    /// `told` hears of every request when its answer begins.
    pub fn new(
        shelf: Arc<Shelf>,
        access: Arc<dyn Access>,
        limits: Limits,
        told: impl Fn(&Answered<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            shelf,
            gate: Arc::new(Gate::new(access)),
            documents: Arc::default(),
            watches: Arc::new(Semaphore::new(limits.watches)),
            limits,
            told: Arc::new(told),
            cancel: CancellationToken::new(),
        }
    }

    /// Serves until cancelled, then lets open calls end; watches end at once, where those who watch can go on elsewhere.
    pub async fn serve(mut self, listener: TcpListener, certificates: Certificates, cancel: CancellationToken) {
        self.cancel = cancel.clone();
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
            let (server, terms) = (self.clone(), certificates.now());
            tasks.spawn(async move {
                let _place = place;
                let acceptor = TlsAcceptor::from(terms.config.clone());
                match server.handshake(&acceptor, stream).await {
                    Ok(stream) => {
                        let caller = Caller { proxy: trusted(&stream, terms.proxy.as_ref()) };
                        server.connection(stream, caller).await;
                    }
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

    async fn connection(self, stream: TlsStream<TcpStream>, caller: Caller) {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let Limits { patience, idle, .. } = self.limits;
        let (cancel, caller) = (self.cancel.clone(), Arc::new(caller));
        let service = service_fn(move |request| {
            let (server, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.answer(request, &caller).await) }
        });
        let ended = if is_h2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(patience);
            builder.max_concurrent_streams(128).max_header_list_size(64 * 1024).max_send_buf_size(256 * 1024);
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
}

/// The front proxy, if it is on the other end. The handshake has verified who signed the certificate, if one was shown.
fn trusted(stream: &TlsStream<TcpStream>, proxy: Option<&Arc<FrontProxy>>) -> Option<Arc<FrontProxy>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let name = common_name(certificate)?;
    proxy.filter(|p| p.allows(&name)).cloned()
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

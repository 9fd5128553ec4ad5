//! A small HTTP server: answers to probes, and figures for Prometheus.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};

/// Connections at a time: more than probes that nodes have under way to one node.
const CONNECTIONS: usize = 256;
/// A request takes no longer, whoever asks.
const REQUEST: Duration = Duration::from_secs(2);
/// Until a port that another process has is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is answered.
pub type Respond = Arc<dyn Fn(&Request<Incoming>) -> Response<String> + Send + Sync>;

/// Answers to probes.
pub fn hello() -> Respond {
    Arc::new(|request| {
        let known = request.method() == Method::GET && request.uri().path() == "/hello";
        if known { Response::new("hello\n".to_owned()) } else { not_found("there is GET /hello") }
    })
}

pub(super) fn not_found(what: &str) -> Response<String> {
    let mut response = Response::new(format!("{what}\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Listens as soon as that is possible, and answers until it is dropped. `place`: for the log.
pub async fn serve(place: String, bind: impl Fn() -> io::Result<std::net::TcpListener>, respond: Respond) {
    let mut told = false;
    let listener = loop {
        match bind().and_then(listen) {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, place, "nobody is answered there; it is tried again");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    accept(listener, respond).await;
}

fn listen(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, respond: Respond) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // out of descriptors: they come back
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let respond = respond.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = respond(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(REQUEST, served).await;
        });
    }
}

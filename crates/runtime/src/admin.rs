//! The admin socket: HTTP/1.1 on a unix socket of mode 0600 that answers only root and the process's own user.
//!
//! *Guarantees*: a stale socket file of a dead process is replaced; the file is removed at the end; a peer of another
//! user is disconnected before a byte of its request is read. *Caveats*: one request a connection.

use std::{
    convert::Infallible,
    fmt::Debug,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use crate::drain::DrainWatcher;

/// Most connections at once; further ones wait.
const CONNECTIONS: usize = 32;
/// How long a peer may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A body of lines.
pub type Lines = Pin<Box<dyn Stream<Item = String> + Send + Sync>>;

/// What a handler answers.
pub enum Answer {
    /// A JSON document.
    Json(serde_json::Value),
    /// Newline-delimited text until the stream ends or the peer leaves.
    Lines(Lines),
    /// No such thing; the message says what there is.
    NotFound(String),
    /// The request was understood and cannot be met.
    Failed(String),
}

impl Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(v) => f.debug_tuple("Json").field(v).finish(),
            Self::Lines(_) => f.write_str("Lines"),
            Self::NotFound(m) => f.debug_tuple("NotFound").field(m).finish(),
            Self::Failed(m) => f.debug_tuple("Failed").field(m).finish(),
        }
    }
}

impl Answer {
    /// `value` as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        serde_json::to_value(value).map_or_else(|e| Self::Failed(e.to_string()), Self::Json)
    }
}

/// A request: method is GET or POST, path without query, query as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub post: bool,
    pub path: String,
    pub query: String,
}

impl Question {
    /// The first value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|p| p.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v))
    }
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    fn answer(&self, question: Question) -> impl Future<Output = Answer> + Send;
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("admin socket {}: {source}", path.display())]
pub struct AdminError {
    path: PathBuf,
    source: std::io::Error,
}

/// Makes the listening socket with mode 0600. A file that a dead process left is replaced, a live one is not.
pub async fn bind(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(failed(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another process serves it")));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    // bound under a temporary name and moved when its mode is right: nobody can connect in between
    let temporary = path.with_extension(format!("new{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(listener)
}

/// Whether the peer may speak: root or the user that this process runs as.
pub fn peer_allowed(stream: &UnixStream, own_uid: u32) -> bool {
    stream.peer_cred().is_ok_and(|c| c.uid() == 0 || c.uid() == own_uid)
}

/// The user that owns files that this process makes.
pub fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |m| m.uid())
}

/// Serves until the drain starts, then removes the socket file.
pub async fn serve(listener: UnixListener, path: PathBuf, handler: Arc<impl Handler>, mut drain: DrainWatcher) {
    let own_uid = own_uid();
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if peer_allowed(&stream, own_uid) => {
                    connections.spawn(connection(stream, handler.clone()));
                }
                Ok(_) => tracing::warn!("admin socket: refused a peer of another user"),
                Err(error) => {
                    tracing::warn!(%error, "admin socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = drain.draining() => break,
        }
    }
    let _ = std::fs::remove_file(&path);
}

async fn connection(stream: UnixStream, handler: Arc<impl Handler>) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(respond(&request, &*handler).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended early");
    }
}

async fn respond<B>(request: &http::Request<B>, handler: &impl Handler) -> Response<BoxBody<Bytes, Infallible>> {
    let post = match *request.method() {
        Method::GET => false,
        Method::POST => true,
        _ => return text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n".to_owned()),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    match handler.answer(Question { post, path: request.uri().path().to_owned(), query }).await {
        Answer::Json(value) => with_type(StatusCode::OK, "application/json", full(format!("{value:#}\n"))),
        Answer::Lines(lines) => {
            let frames = lines.map(|mut l| {
                l.push('\n');
                Ok(Frame::data(Bytes::from(l)))
            });
            with_type(StatusCode::OK, "application/x-ndjson", BodyExt::boxed(StreamBody::new(frames)))
        }
        Answer::NotFound(m) => text(StatusCode::NOT_FOUND, m + "\n"),
        Answer::Failed(m) => text(StatusCode::INTERNAL_SERVER_ERROR, m + "\n"),
    }
}

fn full(body: String) -> BoxBody<Bytes, Infallible> {
    http_body_util::Full::new(Bytes::from(body)).boxed()
}

fn text(status: StatusCode, body: String) -> Response<BoxBody<Bytes, Infallible>> {
    with_type(status, "text/plain; charset=utf-8", full(body))
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: BoxBody<Bytes, Infallible>,
) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::drain;

    struct Echo;

    impl Handler for Echo {
        async fn answer(&self, q: Question) -> Answer {
            match &*q.path {
                "/status" => Answer::json(&serde_json::json!({"ready": true})),
                "/lines" => Answer::Lines(Box::pin(futures::stream::iter(["a".to_owned(), "b".to_owned()]))),
                _ => Answer::NotFound(format!("no {}", q.path)),
            }
        }
    }

    async fn get(path: &Path, target: &str) -> String {
        let mut s = UnixStream::connect(path).await.unwrap();
        s.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let mut out = String::new();
        s.read_to_string(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn the_socket_is_private_answers_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        std::fs::write(&path, "left by a dead process").unwrap();
        let listener = bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (trigger, watcher) = drain::channel();
        let server = tokio::task::spawn(serve(listener, path.clone(), Arc::new(Echo), watcher));
        assert!(bind(&path).await.is_err(), "a live socket is not taken over");
        let status = get(&path, "/status").await;
        assert!(status.starts_with("HTTP/1.1 200") && status.contains("\"ready\": true"), "{status}");
        assert!(get(&path, "/lines").await.contains("a\n"));
        assert!(get(&path, "/none").await.starts_with("HTTP/1.1 404"));
        assert!(trigger.drain(Duration::from_secs(5)).await);
        server.await.unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn parameters_are_found_by_name() {
        let q = Question { post: false, path: "/flows".into(), query: "last=5&follow=true".into() };
        assert_eq!(q.parameter("last"), Some("5"));
        assert_eq!(q.parameter("follow"), Some("true"));
        assert_eq!(q.parameter("none"), None);
    }
}

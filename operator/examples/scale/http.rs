//! The API server's requests.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Path, Refused};

type Body = BoxBody<Bytes, Infallible>;

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, api: Arc<Api>, tasks: TaskTracker) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (api, of) = (api.clone(), tasks.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request| answer(request, api.clone(), of.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, api: Arc<Api>, tasks: TaskTracker) -> Result<Response<Body>, Infallible> {
    let (path, part) = path_of(request.uri().path());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let method = request.method().clone();
    if query.contains("watch=true") {
        return Ok(watch(&api, &path.0, &tasks));
    }
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let result = match method {
        Method::GET if path.2.is_empty() => Ok(api.list(&path.0)),
        Method::GET => api.get(&path),
        Method::POST if path.0 == "tokenreviews" => Ok(review(body)),
        Method::POST => api.create(path, body),
        Method::PUT => api.change(&path, &body, false, &part),
        Method::PATCH => api.change(&path, &body, true, &part),
        Method::DELETE => api.delete(&path),
        _ => Err((405, "MethodNotAllowed")),
    };
    Ok(json_response(result))
}

fn json_response(result: Result<Value, Refused>) -> Response<Body> {
    let (code, value) = match result {
        Ok(value) => (200, value),
        Err((code, reason)) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
                "code": code, "message": reason, "metadata": {}});
            (code, status)
        }
    };
    let body = http_body_util::Full::new(Bytes::from(value.to_string())).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

/// All objects, the mark that they were all, and then what happens.
fn watch(api: &Arc<Api>, plural: &str, tasks: &TaskTracker) -> Response<Body> {
    let (first, mut live) = api.watch(plural);
    let (tx, rx) = mpsc::channel::<Bytes>(8);
    tasks.spawn(async move {
        for chunk in first {
            if !chunk.is_empty() && tx.send(chunk).await.is_err() {
                return;
            }
        }
        while let Some(line) = live.recv().await {
            if tx.send(line).await.is_err() {
                return;
            }
        }
    });
    let frames = ReceiverStream::new(rx).map(|b| Ok::<_, Infallible>(Frame::data(b)));
    Response::new(BodyExt::boxed(StreamBody::new(frames)))
}

/// Every token is the name of the node that it is bound to.
fn review(mut review: Value) -> Value {
    let node = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default().to_owned();
    review["status"] = json!({"authenticated": true, "audiences": [axoneme_wire::TOKEN_AUDIENCE],
        "user": {"username": "system:serviceaccount:axoneme-system:axoneme-agent",
            "extra": {"authentication.kubernetes.io/node-name": [node]}}});
    review
}

/// Resource, namespace and name of a path, and what follows them.
fn path_of(path: &str) -> (Path, String) {
    let mut words = path.split('/').filter(|w| !w.is_empty());
    let groups = if words.next() == Some("api") { 1 } else { 2 };
    let words: Vec<&str> = words.skip(groups).collect();
    let (namespace, rest) = match words.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let word = |i: usize| rest.get(i).map(|w| (*w).to_owned()).unwrap_or_default();
    ((word(0), namespace.to_owned(), word(1)), word(2))
}

//! `/healthz`, `/readyz` and `/metrics`.

use std::{convert::Infallible, sync::Arc};

use axoneme_runtime::readiness::Readiness;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::metrics::Metrics;

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>, cancel: CancellationToken) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // out of file descriptors: the next try may succeed
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (readiness, metrics, cancel) = (readiness.clone(), metrics.clone(), cancel.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request, &readiness, &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                r = connection => if let Err(e) = r { debug!(error = %e, "connection ended") },
                () = cancel.cancelled() => {}
            }
        });
    }
}

fn answer(request: &Request<Incoming>, readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => {
            let awaited: Vec<_> = readiness.awaited().into_iter().map(|(n, why)| format!("{n}: {why}\n")).collect();
            let status = if awaited.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, if awaited.is_empty() { "ok\n".into() } else { awaited.concat() })
        }
        "/metrics" => {
            let mut r = text(StatusCode::OK, metrics.text());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            r.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
            r
        }
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut r = Response::new(Full::new(Bytes::from(body)));
    *r.status_mut() = status;
    r
}

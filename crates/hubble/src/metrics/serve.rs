//! From the history to counters, and to Prometheus.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axoneme_flow::Cause;
use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::{
    node::{self, BUDGET, Node},
    pb::observer::get_flows_response::ResponseTypes,
    walk::{Request as Wanted, Step, Walk},
};

/// Scrapes at a time.
const CONNECTIONS: usize = 16;
const REQUEST: Duration = Duration::from_secs(10);
/// Waits for flows no longer than this, so that losses are shown in time.
const LOOK: Duration = Duration::from_secs(1);

/// Counts what a node sees from now on.
#[derive(Debug)]
pub struct Feeder {
    node: Arc<Node>,
    metrics: Arc<Mutex<Metrics>>,
}

impl Feeder {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(node: Arc<Node>, metrics: Arc<Mutex<Metrics>>) -> Self {
        Self { node, metrics }
    }

    /// Counts until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.count() => {}
        }
    }

    async fn count(self) {
        let hub = self.node.hub.clone();
        let mut walk: Walk = Walk::open(Wanted { follow: true, ..Wanted::default() }, &hub, node::now());
        let (mut pulse, mut gone) = (self.node.pulse.clone(), self.node.gone.subscribe());
        loop {
            let step = walk.step(&hub, BUDGET, node::now());
            let (lines, idle) = match step {
                Step::More(lines) => (lines, false),
                Step::Idle(lines) | Step::End(lines) => (lines, true),
            };
            {
                let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
                for line in &lines {
                    if let Some(ResponseTypes::Flow(flow)) = &line.response_types {
                        metrics.count(flow);
                    }
                }
                while let Ok(pod) = gone.try_recv() {
                    let (namespace, pod) = pod.split_once('/').unwrap_or_default();
                    metrics.forget(namespace, pod);
                }
                for (name, stats) in self.node.exported() {
                    metrics.set_exported(&name, &stats);
                }
                let lost = hub.lost();
                metrics.set_lost([
                    ("perf_event_ring_buffer", lost.get(Cause::DropRing) + lost.get(Cause::FlowRing)),
                    ("observer_events_queue", lost.get(Cause::Undecodable)),
                    ("hubble_ring_buffer", lost.get(Cause::History)),
                ]);
            }
            if idle {
                let _ = tokio::time::timeout(LOOK, pulse.changed()).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Answers `GET /metrics` until cancelled.
pub async fn serve(listener: TcpListener, metrics: Arc<Mutex<Metrics>>, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let metrics = metrics.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(REQUEST * 6, served).await;
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Mutex<Metrics>) -> Response<String> {
    let mut response = Response::new(String::new());
    if request.uri().path() == "/metrics" {
        *response.body_mut() = metrics.lock().unwrap_or_else(PoisonError::into_inner).text();
        let kind = header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        "there is /metrics\n".clone_into(response.body_mut());
    }
    response
}

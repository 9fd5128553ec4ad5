//! `observer.Observer` of all nodes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tonic::{Request, Response, Status, service::Routes};

use super::{
    merge::Merge,
    pool::{Pool, Target},
    source,
};
use crate::{
    observer::Responses,
    pb::{
        observer::{
            GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
            GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse, Tls,
            get_flows_response::ResponseTypes, observer_server,
        },
        relay::NodeState,
    },
    server::{self, ServeError},
    walk,
};

/// Flows of a node that wait for those of others.
const AHEAD: usize = 8;
/// Clients at a time.
const CLIENTS: usize = 256;
/// A follower's nodes are compared with the cluster's so often.
const NODES: Duration = Duration::from_secs(2);
/// A node's answer about itself is waited for so long.
const ANSWER: Duration = Duration::from_secs(3);
/// Nodes that are asked at a time.
const ASKED: usize = 64;
/// Nodes that a status names.
const NAMED: usize = 10;
/// The newest flows of all nodes are picked out of those of each up to this number; beyond it each node's are sent.
const PICKED: u64 = 10_000;

/// The service of a relay.
#[derive(Clone, Debug)]
pub struct Service {
    pool: Arc<Pool>,
    /// Its name in lines of its own.
    name: Arc<str>,
    version: Arc<str>,
    clients: Arc<Semaphore>,
}

impl Service {
    #[must_use]
    pub fn new(pool: Arc<Pool>, name: &str, version: &str) -> Self {
        Self { pool, name: name.into(), version: version.into(), clients: Arc::new(Semaphore::new(CLIENTS)) }
    }

    /// Asks all nodes at once, a bounded number at a time. Why a node has no answer is an answer.
    async fn ask<T: Send + 'static, F>(
        &self,
        question: impl Fn(Target) -> F,
    ) -> Vec<(Arc<str>, Target, Result<T, String>)>
    where
        F: Future<Output = Result<T, String>> + Send,
    {
        use futures::StreamExt as _;
        let targets = self.pool.targets();
        let mut asked = Vec::with_capacity(targets.len());
        for (name, target) in targets.iter() {
            let (name, target, answer) = (name.clone(), target.clone(), question(target.clone()));
            asked.push(async move {
                let late = |_| Err(format!("no answer within {} s", ANSWER.as_secs()));
                let answer = tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(late);
                (name, target, answer)
            });
        }
        futures::stream::iter(asked).buffered(ASKED).collect().await
    }

    async fn statuses(&self) -> Vec<(Arc<str>, Target, Result<ServerStatusResponse, String>)> {
        let status = |target: Target| async move {
            let answer = target.client()?.server_status(ServerStatusRequest {}).await;
            answer.map(Response::into_inner).map_err(|s| s.message().to_owned())
        };
        self.ask(status).await
    }
}

/// A client's stream.
struct Flows {
    pool: Arc<Pool>,
    request: GetFlowsRequest,
    merge: Merge,
    tasks: JoinSet<()>,
    handles: BTreeMap<Arc<str>, AbortHandle>,
    /// So many flows of all nodes are wanted.
    left: Option<u64>,
    /// The last so many are wanted: those seen so far.
    picked: Option<VecDeque<GetFlowsResponse>>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Flows {
    /// Takes up nodes that are new, lets go of those that are gone.
    fn nodes(&mut self) {
        let targets = self.pool.targets();
        for name in self.merge.nodes() {
            if !targets.contains_key(&name) {
                self.merge.remove(&name);
                if let Some(handle) = self.handles.remove(&name) {
                    handle.abort();
                }
            }
        }
        for (name, target) in targets.iter() {
            if self.merge.knows(name) {
                continue;
            }
            let (sender, queue) = mpsc::channel(AHEAD);
            self.merge.add(name.clone(), queue);
            let handle = self.tasks.spawn(source::run(target.clone(), self.request.clone(), sender));
            self.handles.insert(name.clone(), handle);
        }
    }

    async fn line(&mut self) -> Option<GetFlowsResponse> {
        if !self.request.follow {
            return self.merge.next().await;
        }
        loop {
            if let Ok(line) = tokio::time::timeout(NODES, self.merge.next()).await {
                return line;
            }
            self.nodes();
        }
    }

    async fn next(&mut self) -> Option<GetFlowsResponse> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            if self.ended {
                return self.picked.as_mut()?.pop_front();
            }
            let Some(line) = self.line().await else {
                self.ended = true;
                continue;
            };
            if !matches!(line.response_types, Some(ResponseTypes::Flow(_))) {
                return Some(line);
            }
            self.left = self.left.map(|n| n - 1);
            let Some(picked) = &mut self.picked else { return Some(line) };
            picked.push_back(line);
            if picked.len() as u64 > self.request.number {
                picked.pop_front();
            }
        }
    }
}

#[tonic::async_trait]
impl observer_server::Observer for Service {
    type GetFlowsStream = Responses<GetFlowsResponse>;
    type GetAgentEventsStream = Responses<GetAgentEventsResponse>;
    type GetDebugEventsStream = Responses<GetDebugEventsResponse>;

    async fn get_flows(&self, request: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        // refused here once, not by each node
        walk::Request::parse(&request).map_err(Status::invalid_argument)?;
        let full = |_| Status::resource_exhausted(format!("this relay serves {CLIENTS} clients already"));
        let permit = self.clients.clone().try_acquire_owned().map_err(full)?;
        let bounded = !request.follow && request.number > 0;
        let from_start = request.first || request.since.is_some();
        let mut flows = Flows {
            pool: self.pool.clone(),
            merge: Merge::new(&self.name, request.follow),
            tasks: JoinSet::new(),
            handles: BTreeMap::new(),
            left: (bounded && from_start).then_some(request.number),
            picked: (bounded && !from_start && request.number <= PICKED).then(VecDeque::new),
            request,
            ended: false,
            _permit: permit,
        };
        flows.nodes();
        let stream = futures::stream::unfold(flows, |mut f| async move { Some((Ok(f.next().await?), f)) });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("agent events are served by nodes"))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("there are no debug events"))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        let node = |(name, target, status): (Arc<str>, Target, Result<ServerStatusResponse, String>)| {
            let known = status.as_ref().ok().cloned().unwrap_or_default();
            Node {
                name: name.to_string(),
                version: known.version,
                address: target.address,
                state: if status.is_ok() { NodeState::NodeConnected } else { NodeState::NodeUnavailable }.into(),
                tls: Some(Tls {
                    enabled: target.server_name.is_some(),
                    server_name: target.server_name.unwrap_or_default(),
                }),
                uptime_ns: known.uptime_ns,
                num_flows: known.num_flows,
                max_flows: known.max_flows,
                seen_flows: known.seen_flows,
            }
        };
        let nodes = self.statuses().await.into_iter().map(node).collect();
        Ok(Response::new(GetNodesResponse { nodes }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let namespaces = |target: Target| async move {
            let answer = target.client()?.get_namespaces(GetNamespacesRequest {}).await;
            answer.map(|r| r.into_inner().namespaces).map_err(|s| s.message().to_owned())
        };
        let answers = self.ask(namespaces).await;
        let all: BTreeSet<(String, String)> =
            answers.into_iter().filter_map(|a| a.2.ok()).flatten().map(|n| (n.cluster, n.namespace)).collect();
        let namespaces = all.into_iter().map(|(cluster, namespace)| Namespace { cluster, namespace }).collect();
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Result<Response<ServerStatusResponse>, Status> {
        let mut sum = ServerStatusResponse { version: self.version.to_string(), ..ServerStatusResponse::default() };
        let (mut connected, mut unavailable) = (0, 0);
        for (name, _, status) in self.statuses().await {
            if let Ok(s) = status {
                connected += 1;
                sum.num_flows += s.num_flows;
                sum.max_flows += s.max_flows;
                sum.seen_flows += s.seen_flows;
                sum.uptime_ns = sum.uptime_ns.max(s.uptime_ns);
                sum.flows_rate += s.flows_rate;
            } else {
                unavailable += 1;
                if sum.unavailable_nodes.len() < NAMED {
                    sum.unavailable_nodes.push(name.to_string());
                }
            }
        }
        sum.num_connected_nodes = Some(connected);
        sum.num_unavailable_nodes = Some(unavailable);
        Ok(Response::new(sum))
    }
}

/// The services of a relay, with health and reflection.
pub async fn routes(service: Service) -> Result<Routes, ServeError> {
    server::with_health(Routes::new(observer_server::ObserverServer::new(service))).await
}

//! `observer.Observer` of one node.
//!
//! A stream is pulled: nothing is made for a client that does not read, so a slow client costs a position in the
//! history, and learns what it missed.

mod raw;

use std::{collections::VecDeque, pin::Pin, sync::Arc, sync::PoisonError, time::Duration};

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::{Request, Response, Status};

use crate::{
    convert, details,
    events::Cursor,
    node::{self, BUDGET, MAX_STREAMS, Node},
    pb::observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse, GetFlowsRequest,
        GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest, GetNodesResponse, Namespace,
        Node as NodeInfo, ServerStatusRequest, ServerStatusResponse, Tls, observer_server,
    },
    pb::relay::NodeState,
    walk::{self, Line, Step, Walk},
};
pub(crate) use raw::Server;

/// One that waits looks for losses so often.
const LOSSES: Duration = Duration::from_secs(1);

/// The service of one node.
#[derive(Clone, Debug)]
pub struct Service(pub Arc<Node>);

/// A place among the streams that are served.
pub(crate) fn permit(node: &Node) -> Result<OwnedSemaphorePermit, Status> {
    let full = |_| Status::resource_exhausted(format!("this node serves {MAX_STREAMS} streams already"));
    node.streams.clone().try_acquire_owned().map_err(full)
}

struct Flows<L> {
    node: Arc<Node>,
    walk: Walk<L>,
    pulse: watch::Receiver<u64>,
    ready: VecDeque<L>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl<L: Line> Flows<L> {
    async fn next(&mut self) -> Option<L> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            match self.walk.step(&self.node.hub, BUDGET, node::now()) {
                // others have their turn, also while nothing matches
                Step::More(lines) => {
                    self.ready.extend(lines);
                    tokio::task::yield_now().await;
                }
                Step::Idle(lines) => {
                    self.ready.extend(lines);
                    if self.ready.is_empty() {
                        // either way: look again
                        let _ = tokio::time::timeout(LOSSES, self.pulse.changed()).await;
                    }
                }
                Step::End(lines) => {
                    self.ready.extend(lines);
                    self.ended = true;
                }
            }
        }
    }
}

/// A stream of responses.
pub(crate) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl observer_server::Observer for Service {
    type GetFlowsStream = Responses<GetFlowsResponse>;
    type GetAgentEventsStream = Responses<GetAgentEventsResponse>;
    type GetDebugEventsStream = Responses<GetDebugEventsResponse>;

    async fn get_flows(&self, request: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        self.flows(&request)
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let node = self.0.clone();
        let cursor = {
            let log = node.events.lock().unwrap_or_else(PoisonError::into_inner);
            Cursor::open(request.get_ref(), &log).map_err(Status::invalid_argument)?
        };
        let permit = permit(&node)?;
        let stream = futures::stream::unfold((node, cursor, permit), |(node, mut cursor, permit)| async move {
            loop {
                let next = cursor.next(&node.events.lock().unwrap_or_else(PoisonError::into_inner));
                match next {
                    Ok((time, event)) => {
                        let response = GetAgentEventsResponse {
                            agent_event: Some(event),
                            node_name: node.name(),
                            time: Some(convert::timestamp(time)),
                        };
                        return Some((Ok(response), (node, cursor, permit)));
                    }
                    Err(true) => return None,
                    Err(false) => tokio::time::sleep(LOSSES / 4).await,
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("the datapath has no debug events; drops carry their reason and rule"))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        let status = self.status();
        let own = self.0.hub.read(|view| view.names.node().clone());
        let peers = self.0.peers.borrow().clone();
        let nodes = peers.iter().map(|(node, peer)| {
            let mut info = NodeInfo {
                name: peer.name.clone(),
                address: peer.address.map(|a| a.to_string()).unwrap_or_default(),
                tls: Some(Tls {
                    enabled: peer.server_name.is_some(),
                    server_name: peer.server_name.clone().unwrap_or_default(),
                }),
                ..NodeInfo::default()
            };
            // a node knows of itself; of the others it says that they are there
            if *node == own {
                info.state = NodeState::NodeConnected.into();
                info.version.clone_from(&status.version);
                info.uptime_ns = status.uptime_ns;
                info.num_flows = status.num_flows;
                info.max_flows = status.max_flows;
                info.seen_flows = status.seen_flows;
            }
            info
        });
        Ok(Response::new(GetNodesResponse { nodes: nodes.collect() }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        self.0.scan_namespaces(0);
        let cluster = self.0.cluster();
        let namespace = |n: Arc<str>| Namespace { cluster: cluster.to_string(), namespace: n.to_string() };
        let namespaces = self.0.namespaces().into_iter().map(namespace).collect();
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(self.status()))
    }
}

impl Service {
    /// Lines of the form that the server writes.
    fn flows<L: Line + Send + 'static>(
        &self,
        request: &Request<GetFlowsRequest>,
    ) -> Result<Response<Responses<L>>, Status> {
        let details = request.metadata().get(details::HEADER).is_some_and(|v| v == "true");
        let wanted = walk::Request::parse(request.get_ref()).map_err(Status::invalid_argument)?;
        let node = self.0.clone();
        let walk = Walk::open(walk::Request { details, ..wanted }, &node.hub, node::now());
        let (permit, pulse) = (permit(&node)?, node.pulse.clone());
        let flows = Flows { node, walk, pulse, ready: VecDeque::new(), ended: false, _permit: permit };
        let stream = futures::stream::unfold(flows, |mut f| async move { Some((Ok(f.next().await?), f)) });
        Ok(Response::new(Box::pin(stream)))
    }

    fn status(&self) -> ServerStatusResponse {
        let hub = &self.0.hub;
        ServerStatusResponse {
            // the past has room for bytes, not for a number: what there is more than the ring has room for is what there may be
            num_flows: hub.held(),
            max_flows: hub.held().max(hub.capacity()),
            seen_flows: hub.seen(),
            uptime_ns: u64::try_from(self.0.uptime().as_nanos()).unwrap_or(u64::MAX),
            version: self.0.settings.version.clone(),
            flows_rate: self.0.rate(node::now()),
            ..ServerStatusResponse::default()
        }
    }
}

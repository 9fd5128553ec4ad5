//! One node's part of a client's request.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tonic::{Code, Status};

use super::{
    merge::News,
    pool::{Target, describe},
};
use crate::{
    convert,
    pb::{
        observer::{GetFlowsRequest, GetFlowsResponse},
        relay::NodeState,
    },
};
use axoneme_flow::Time;

/// A node that a follower lost is tried again after a second, then less and less often.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The client has gone.
struct Gone;

/// Passes on what the node sends, until it has sent all, or (for a follower) until the client leaves. A follower whose
/// node was lost goes on after the last flow that it has seen of it.
pub(super) async fn run(node: Target, mut request: GetFlowsRequest, to: Sender<News>) {
    let mut backoff = BACKOFF.0;
    loop {
        let (mut last, mut connected) = (None, false);
        let error = match pass_on(&node, request.clone(), &to, &mut last, &mut connected).await {
            Ok(Ok(())) if !request.follow => return,
            Ok(Ok(())) => "the stream ended".to_owned(),
            Ok(Err(status)) if !request.follow || status.code() == Code::InvalidArgument => {
                let _ = to.send(News::State(NodeState::NodeError, message(&status))).await;
                return;
            }
            Ok(Err(status)) => message(&status),
            Err(Gone) => return,
        };
        if to.send(News::State(NodeState::NodeUnavailable, error)).await.is_err() {
            return;
        }
        if let Some(Time(last)) = last {
            request.since = Some(convert::timestamp(Time(last + 1)));
            request.number = 0;
        }
        backoff = if connected { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        tokio::time::sleep(backoff).await;
    }
}

async fn pass_on(
    node: &Target,
    request: GetFlowsRequest,
    to: &Sender<News>,
    last: &mut Option<Time>,
    connected: &mut bool,
) -> Result<Result<(), Status>, Gone> {
    let send = |news| async { to.send(news).await.map_err(|_| Gone) };
    let mut client = match node.client() {
        Ok(client) => client,
        Err(error) => return Ok(Err(Status::unavailable(error))),
    };
    let mut stream = match client.get_flows(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    *connected = true;
    send(News::State(NodeState::NodeConnected, String::new())).await?;
    loop {
        match stream.message().await {
            Ok(Some(line)) => {
                *last = time(&line).or(*last);
                send(News::Line(Box::new(line))).await?;
            }
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}

fn time(line: &GetFlowsResponse) -> Option<Time> {
    line.time.as_ref().and_then(convert::time)
}

fn message(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => format!("{}: {}", status.message(), describe(cause)),
        None => status.message().to_owned(),
    }
}

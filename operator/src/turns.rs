//! What a new leader reads before it leads.
//!
//! Blocks and numbers must not be handed out twice, and a new leader's watches may be behind what the former one wrote. So it
//! first lists what hands something out: whoever held the Lease before has ended by then, and nobody else begins. Three
//! things can go on beside that, and none of them loses or doubles anything:
//!
//! - *An object becomes another one after the list.* The watch may tell of it before the list is applied; the core goes by
//!   versions, and the older one is left out.
//! - *An object goes after the list* (a Node's CiliumNode, by garbage collection; an identity, by a person). The watch may tell
//!   of the end before the list is applied, and the list would bring it back for good: a block that nobody has, a number that
//!   this leader uses and the next one gives to other labels. So the core is asked first ([`Turn::Reads`]), and from then on
//!   keeps which versions went; the list is read only when it has said so.
//! - *The Lease is lost and taken again, while the core is busy* (a first compile takes seconds). What it plans by this list
//!   then would be put onto what others wrote in between. So all that it plans is of a [`Term`], which ends with the first
//!   moment in which somebody else could hold the Lease; the writer lets nothing of a former term pass, and a new term is
//!   a turn of its own, with a list of its own.

use std::time::Duration;

use axoneme_model::Kind;
use axoneme_wire::server::Leadership;
use kube::{Api, Client, api::ListParams, core::DynamicObject};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use crate::{
    lease::{LeaseHold, election::Term},
    source::{SourceEvent, kube::resource, slim},
};

/// Kinds that hand something out.
const HANDED_OUT: [Kind; 2] = [Kind::CiliumNode, Kind::CiliumIdentity];
/// A list that takes longer is tried again.
const DEADLINE: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// What the core is told.
#[derive(Debug)]
pub enum Turn {
    /// A list is about to be read; it is read when this is answered.
    Reads(oneshot::Sender<()>),
    /// Who leads, with what a new leader has read, and the term that it leads in.
    Is { leadership: Leadership, read: Vec<SourceEvent>, term: Term },
}

/// Hands leadership on, until nobody tells of it or takes it.
pub async fn run(client: Client, mut leads: watch::Receiver<Leadership>, hold: LeaseHold, turns: mpsc::Sender<Turn>) {
    loop {
        let leadership = leads.borrow_and_update().clone();
        // before the list: a term that begins meanwhile is told with a list of its own
        let term = hold.term();
        let mut read = Vec::new();
        if leadership == Leadership::Me {
            let (begin, begun) = oneshot::channel();
            if turns.send(Turn::Reads(begin)).await.is_err() || begun.await.is_err() {
                return;
            }
            match tokio::time::timeout(DEADLINE, fresh(&client)).await {
                Ok(Ok(events)) => read = events,
                failed => {
                    warn!(reason = ?failed.map(|r| r.map(|_| ())), "no fresh list: not leading yet");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
        }
        if turns.send(Turn::Is { leadership, read, term }).await.is_err() || leads.changed().await.is_err() {
            return;
        }
    }
}

/// All objects that hand something out, as they are now: without a resource version the list is no cache's.
async fn fresh(client: &Client) -> Result<Vec<SourceEvent>, kube::Error> {
    let mut events = Vec::new();
    for kind in HANDED_OUT {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
        let list = api.list(&ListParams::default()).await?;
        let objects = list.items.into_iter().filter_map(|o| serde_json::to_value(o).ok());
        events.extend(objects.map(|mut object| {
            slim(kind, &mut object);
            SourceEvent::Apply { kind, object }
        }));
    }
    Ok(events)
}

#[cfg(test)]
mod tests;

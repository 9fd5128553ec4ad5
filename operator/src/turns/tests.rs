//! A leader that begins, in front of an API server that notes what it is asked.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::lease::Renewed;

type Asked = Arc<Mutex<Vec<String>>>;

/// Lists have one object; the first `failing` requests are refused.
fn client(asked: &Asked, failing: usize) -> Client {
    let asked = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let mut asked = asked.lock().unwrap();
        asked.push(request.uri().path().to_owned());
        let (code, body) = if asked.len() <= failing {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 503,
                "message": "away", "reason": "ServiceUnavailable"});
            (503, status)
        } else {
            let item = json!({"metadata": {"name": "300", "resourceVersion": "7"}});
            (
                200,
                json!({"apiVersion": "cilium.io/v2", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": [item]}),
            )
        };
        let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    Client::new(service, "axoneme-system")
}

fn renew(hold: &LeaseHold) -> bool {
    hold.set(Some(Renewed { steady: Instant::now(), wall: axoneme_runtime::clock::wall() }))
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_only_when_the_core_watches_for_what_goes_meanwhile() {
    let asked = Asked::default();
    let (leads, seen) = watch::channel(Leadership::Unknown);
    let (tx, mut turns) = mpsc::channel(1);
    let hold = LeaseHold::default();
    let task = tokio::task::spawn(run(client(&asked, 1), seen, hold.clone(), tx));
    let Some(Turn::Is { leadership: Leadership::Unknown, read, .. }) = turns.recv().await else { panic!("no turn") };
    assert!(read.is_empty());
    renew(&hold);
    leads.send_replace(Leadership::Me);
    for attempt in ["fails", "works"] {
        let Some(Turn::Reads(begin)) = turns.recv().await else { panic!("it reads without asking") };
        let before = asked.lock().unwrap().len();
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(asked.lock().unwrap().len(), before, "read before it was told to: {attempt}");
        begin.send(()).unwrap();
    }
    let Some(Turn::Is { leadership: Leadership::Me, read, term }) = turns.recv().await else { panic!("no turn") };
    assert_eq!((read.len(), term), (2, hold.term()));
    assert_eq!(asked.lock().unwrap().len(), 3, "one that failed, and the two kinds");
    drop(turns);
    leads.send_replace(Leadership::Unknown);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_term_that_begins_while_a_leader_leads_is_told_with_a_list_of_its_own() {
    let asked = Asked::default();
    let (leads, seen) = watch::channel(Leadership::Me);
    let (tx, mut turns) = mpsc::channel(1);
    let hold = LeaseHold::default();
    assert!(renew(&hold), "the first term");
    assert!(!renew(&hold), "renewed in time");
    tokio::task::spawn(run(client(&asked, 0), seen, hold.clone(), tx));
    let mut terms = Vec::new();
    for _ in 0..2 {
        let Some(Turn::Reads(begin)) = turns.recv().await else { panic!("it reads without asking") };
        // lost and taken again between the question and the list: it is still the list of the former term
        hold.set(None);
        assert!(renew(&hold), "lost and taken again");
        begin.send(()).unwrap();
        let Some(Turn::Is { read, term, .. }) = turns.recv().await else { panic!("no turn") };
        assert_eq!(read.len(), 2);
        assert!(!hold.lets(term), "what is planned by this list was planned before others may have written");
        terms.push(term);
        // as the candidate's loop says it
        leads.send_modify(|_| {});
    }
    assert_ne!(terms[0], terms[1]);
    let Some(Turn::Reads(begin)) = turns.recv().await else { panic!("it reads without asking") };
    begin.send(()).unwrap();
    let Some(Turn::Is { term, .. }) = turns.recv().await else { panic!("no turn") };
    assert!(hold.lets(term));
}

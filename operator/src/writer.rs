//! Carries out writes.

use std::{sync::Arc, time::Duration};

use axoneme_model::Kind;
use futures::StreamExt;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::DynamicObject,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    lease::{LeaseHold, election::Term},
    metrics::Metrics,
    source::kube::resource,
    write::{Operation, Outcome, Part, Write, WriteKey},
};

/// Writes under way at once.
const CONCURRENCY: usize = 16;
/// Less than the time between a Lease's last sure moment for writes and its end: see [`LeaseHold`].
const DEADLINE: Duration = Duration::from_secs(3);

/// Carries out writes, each of the term that it was planned in, until the sender is gone; says what became of each.
pub async fn run(
    client: Client,
    hold: LeaseHold,
    instance: String,
    writes: mpsc::Receiver<(Term, Write)>,
    outcomes: mpsc::Sender<(WriteKey, Outcome)>,
    metrics: Arc<Metrics>,
) {
    let one = |(term, write): (Term, Write)| {
        let (client, hold, instance, outcomes) = (client.clone(), hold.clone(), instance.clone(), outcomes.clone());
        let metrics = metrics.clone();
        async move {
            let outcome = carry_out(&client, (&hold, term), &instance, &write).await;
            metrics.wrote(write.key.object.kind, &outcome);
            let _ = outcomes.send((write.key, outcome)).await;
        }
    };
    ReceiverStream::new(writes).for_each_concurrent(CONCURRENCY, one).await;
}

async fn carry_out(client: &Client, (hold, term): (&LeaseHold, Term), instance: &str, write: &Write) -> Outcome {
    if !hold.lets(term) {
        return Outcome::Failed("the Lease is not sure".into());
    }
    match tokio::time::timeout(DEADLINE, request(client, instance, write)).await {
        Ok(Ok(object)) => Outcome::Done(object),
        Ok(Err(kube::Error::Api(s))) if s.code == 409 => Outcome::Conflict,
        Ok(Err(kube::Error::Api(s))) if s.code == 404 && matches!(write.operation, Operation::Delete { .. }) => {
            Outcome::Done(None)
        }
        Ok(Err(e)) => Outcome::Failed(e.to_string()),
        Err(_) => Outcome::Failed("no answer in time".into()),
    }
}

async fn request(client: &Client, instance: &str, write: &Write) -> Result<Option<Value>, kube::Error> {
    let object = &write.key.object;
    let api = api(client, object.kind, &object.namespace);
    let name = &*object.name;
    let params = PatchParams { field_manager: Some("axoneme-operator".into()), ..PatchParams::default() };
    let done = match (&write.operation, write.key.part) {
        (Operation::Create(body), _) => api.create(&PostParams::default(), &parse(body)?).await?,
        (Operation::Merge(body), Part::Status) => api.patch_status(name, &params, &Patch::Merge(body)).await?,
        (Operation::Merge(body), _) => api.patch(name, &params, &Patch::Merge(body)).await?,
        (Operation::Strategic(body), Part::Status) => api.patch_status(name, &params, &Patch::Strategic(body)).await?,
        (Operation::Strategic(body), _) => api.patch(name, &params, &Patch::Strategic(body)).await?,
        (Operation::Delete { uid, resource_version }, _) => {
            let preconditions = Preconditions { uid: uid.clone(), resource_version: resource_version.clone() };
            let some = uid.is_some() || resource_version.is_some();
            let params = DeleteParams { preconditions: some.then_some(preconditions), ..DeleteParams::default() };
            api.delete(name, &params).await?;
            return Ok(None);
        }
        (Operation::Event { .. }, _) => {
            event(client, instance, write).await?;
            return Ok(None);
        }
    };
    Ok(serde_json::to_value(done).ok())
}

fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    let resource = resource(kind);
    if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    }
}

fn parse(body: &Value) -> Result<DynamicObject, kube::Error> {
    serde_json::from_value(body.clone()).map_err(kube::Error::SerdeError)
}

/// Writes an Event; one that is there already says the same.
async fn event(client: &Client, instance: &str, write: &Write) -> Result<(), kube::Error> {
    let Some(body) = event_body(instance, write) else { return Ok(()) };
    let namespace = body.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
    let namespace = namespace.as_str();
    let gvk = kube::core::GroupVersionKind::gvk("events.k8s.io", "v1", "Event");
    let events = kube::core::ApiResource::from_gvk_with_plural(&gvk, "events");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &events);
    match api.create(&PostParams::default(), &parse(&body)?).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(()),
        Err(e) => Err(e),
    }
}

/// An `events.k8s.io/v1` Event. Its name is a hash of what it says: said twice it is there once.
fn event_body(instance: &str, write: &Write) -> Option<Value> {
    let Operation::Event { warning, reason, message, uid } = &write.operation else { return None };
    let object = &write.key.object;
    let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
    let uid = uid.as_deref().unwrap_or_default();
    let digest = Sha256::digest(format!("{object}\n{uid}\n{reason}\n{message}"));
    let digest = hex::encode(digest.first_chunk::<8>().copied().unwrap_or_default());
    let resource = resource(object.kind);
    let mut regarding = json!({"apiVersion": resource.api_version, "kind": resource.kind, "name": &*object.name});
    for (field, value) in [("namespace", &*object.namespace), ("uid", uid)] {
        if let Some(r) = regarding.as_object_mut().filter(|_| !value.is_empty()) {
            r.insert(field.into(), value.into());
        }
    }
    Some(json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": format!("{}.{digest}", object.name), "namespace": namespace},
        "regarding": regarding,
        "type": if *warning { "Warning" } else { "Normal" },
        "reason": reason,
        "note": message,
        "action": "Reconcile",
        "reportingController": "axoneme.io/operator",
        "reportingInstance": instance,
        "eventTime": crate::time::rfc3339_micro(axoneme_runtime::clock::wall()),
    }))
}

#[cfg(test)]
mod tests {
    use axoneme_model::ObjectRef;

    use super::*;

    #[tokio::test]
    async fn what_was_planned_in_a_former_term_is_not_written() {
        let service = tower::service_fn(|_| async {
            let body = json!({"metadata": {"name": "300"}}).to_string().into_bytes();
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(body)))
        });
        let client = Client::new(service, "default");
        let hold = LeaseHold::default();
        let renew = || hold.set(Some(crate::lease::Renewed::now()));
        let write = Write::new(
            ObjectRef::new(Kind::CiliumIdentity, "", "300"),
            Part::Object,
            Operation::Create(json!({"metadata": {"name": "300"}})),
        );
        renew();
        let term = hold.term();
        assert!(matches!(carry_out(&client, (&hold, term), "op-1", &write).await, Outcome::Done(Some(_))));
        hold.set(None);
        assert!(matches!(carry_out(&client, (&hold, term), "op-1", &write).await, Outcome::Failed(_)));
        renew();
        let outcome = carry_out(&client, (&hold, term), "op-1", &write).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "others may have written in between: {outcome:?}");
        assert!(matches!(carry_out(&client, (&hold, hold.term()), "op-1", &write).await, Outcome::Done(Some(_))));
    }

    #[test]
    fn an_event_is_found_by_the_uid_of_its_object() {
        let mut w = Write::event(ObjectRef::new(Kind::Pod, "ns", "p"), true, "Exhausted", "no block".into());
        if let Operation::Event { uid, .. } = &mut w.operation {
            *uid = Some("u-1".into());
        }
        let body = event_body("op-1", &w).unwrap();
        assert_eq!(
            body["regarding"],
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "ns", "uid": "u-1"})
        );
        assert_eq!((&body["type"], &body["reason"]), (&json!("Warning"), &json!("Exhausted")));
        assert_eq!(
            body["metadata"]["name"],
            event_body("op-2", &w).unwrap()["metadata"]["name"],
            "once for all replicas"
        );
        let cluster = Write::event(ObjectRef::new(Kind::CiliumPodIPPool, "", "p"), false, "X", String::new());
        let body = event_body("op-1", &cluster).unwrap();
        assert_eq!(body["metadata"]["namespace"], "default");
        assert!(body["regarding"].get("namespace").is_none());
    }
}

use axoneme_wire::client::{Desired, Driver, Event, Settings};

use super::*;

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: box}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: box}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEndpoints: [{matchLabels: {app: front}}]}]
";

async fn until(events: &mut mpsc::Receiver<Event>, desired: &mut Desired, what: impl Fn(&Desired) -> bool) {
    while !what(desired) {
        let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("rows come").unwrap();
        if let Event::Batch(b) = event {
            desired.fold(b).unwrap();
        }
    }
}

#[tokio::test]
async fn a_directory_becomes_rows_and_its_changes_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("all.yaml"), MANIFESTS).unwrap();
    let operator = Standalone::start(dir.path().to_owned(), "box").await.unwrap();
    let settings = Settings { node: "box".into(), agent_version: "test".into(), resume: None };
    let (driver, _client, mut events) = Driver::new(settings, Arc::new(operator.directory()), operator.credentials());
    let cancel = CancellationToken::new();
    tokio::spawn(driver.run(cancel.clone()));
    let mut desired = Desired::default();
    until(&mut events, &mut desired, |d| d.rows().endpoints.len() == 1).await;
    let endpoint = desired.rows().endpoints["shop/web"].clone();
    assert!(endpoint.identity >= axoneme_model::Identity::FIRST);
    let table = &desired.rows().tables[&endpoint.table];
    assert!(!table.ingress_default.allow && table.egress_default.allow);
    let config = desired.rows().config.as_ref().unwrap();
    assert_eq!(config.pools["default"], ["10.244.0.0/24".parse().unwrap()]);

    std::fs::write(dir.path().join("all.yaml"), MANIFESTS.replace("kind: CiliumNetworkPolicy", "kind: Nonsense"))
        .unwrap();
    std::fs::write(dir.path().join("more.yaml"), "apiVersion: v1\nkind: Node\nmetadata: {name: other}\n").unwrap();
    until(&mut events, &mut desired, |d| d.rows().nodes.len() == 2).await;
    assert!(!desired.rows().tables.values().next().unwrap().ingress_default.allow, "a broken file keeps what it said");

    let without = MANIFESTS.split("---\napiVersion: cilium.io/v2").next().unwrap().to_owned();
    std::fs::write(dir.path().join("all.yaml"), without).unwrap();
    until(&mut events, &mut desired, |d| d.rows().tables.values().all(|t| t.ingress_default.allow)).await;
    cancel.cancel();
    operator.stop().await;
}

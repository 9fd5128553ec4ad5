//! How long the first page of 100,000 endpoints takes, how long all of them, and what the server holds meanwhile:
//! `cargo run --release -p axoneme-views --example views_list`. Without network: what the server makes is read as it
//! comes, and thrown away.

use std::{sync::Arc, time::Instant};

use axoneme_model::{
    Identity, LabelKey, Labels, PackedSet,
    rows::TableId,
    world::{NamedPorts, PlainLabels, Pod},
};
use axoneme_views::{
    Endpoint, Stance, Store, View as _,
    accept::Form,
    kinds::EndpointPolicy,
    list::list,
    present::Present,
    request::{self, Include, Path, What},
};
use futures::{StreamExt as _, pin_mut};

const ENDPOINTS: u32 = 100_000;

fn endpoint(i: u32) -> Endpoint {
    let (namespace, app) = (format!("team-{}", i % 200), format!("app-{}", i % 50));
    let labels = [("app", app.as_str()), ("pod-template-hash", "6d4cf56db6"), ("tier", "backend")];
    let pod = Pod {
        namespace: namespace.as_str().into(),
        name: format!("{app}-6d4cf56db6-{i:05}").into(),
        uid: format!("7d4f1c9e-0000-4000-8000-{i:012}").into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<PlainLabels>(),
        annotations: PlainLabels::default(),
        service_account: "default".into(),
        node: format!("node-{}", i % 5000).into(),
        addresses: [std::net::IpAddr::from((0x0a00_0000 + i).to_be_bytes())].into_iter().collect::<PackedSet<_>>(),
        named_ports: NamedPorts::default(),
    };
    let labels = Labels::new().with(LabelKey::k8s("app"), &app).with(LabelKey::k8s("tier"), "backend");
    let policy = EndpointPolicy {
        identity: Identity(256 + i % 10_000),
        table: TableId(u64::from(i % 500)),
        labels,
        pools: [Arc::default(), Arc::default()],
        ingress: Stance::Isolated,
        egress: Stance::Open,
    };
    Endpoint { pod: Arc::new(pod), policy: Some(policy) }
}

/// Resident memory of this process, KiB.
fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

async fn run(store: &Arc<Store<Endpoint>>, name: &str, asked: &str, form: Form) {
    let Ok(Path::Resource(target)) = request::path("/apis/views.axoneme.io/v1alpha1/endpoints") else { return };
    let Ok(query) = request::query(&target, asked) else { return };
    let What::List { limit, from, .. } = query.what.clone() else { return };
    let (started, before) = (Instant::now(), resident("VmRSS"));
    let pieces = list(store.clone(), query, Present { form, include: Include::Metadata }, (limit, from));
    pin_mut!(pieces);
    let (mut bytes, mut first, mut held) = (0, None, before);
    while let Some(piece) = pieces.next().await {
        first.get_or_insert_with(|| started.elapsed());
        bytes += piece.len();
        held = held.max(resident("VmRSS"));
    }
    let (took, first) = (started.elapsed().as_secs_f64() * 1e3, first.unwrap_or_default().as_secs_f64() * 1e3);
    let more = held.saturating_sub(before);
    println!("{name:<34} {took:>9.2} ms  first bytes {first:>7.2} ms  {bytes:>11} bytes  resident +{more} KiB");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = Arc::<Store<Endpoint>>::default();
    let (started, before) = (Instant::now(), resident("VmRSS"));
    store.apply((0..ENDPOINTS).map(endpoint).map(|e| (e.key(), Some(e))));
    let (took, more) = (started.elapsed().as_millis(), resident("VmRSS").saturating_sub(before));
    println!(
        "{ENDPOINTS} endpoints made and taken in: {took} ms, resident +{more} KiB (with the pods, which the operator has anyway)"
    );
    for _ in 0..3 {
        run(&store, "first page of 500, table", "limit=500", Form::Table).await;
        run(&store, "first page of 500, objects", "limit=500", Form::Object).await;
        run(&store, "one of 50 apps, table", "labelSelector=app%3Dapp-7", Form::Table).await;
        run(&store, "one node of 5000, by field", "fieldSelector=status.node%3Dnode-7", Form::Table).await;
        run(&store, "all, table", "", Form::Table).await;
        run(&store, "all, objects", "", Form::Object).await;
    }
}

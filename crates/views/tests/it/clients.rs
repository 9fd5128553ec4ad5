//! A client library that knows nothing of this server: pages, selectors, watches that begin anew.

use std::{collections::BTreeMap, time::Duration};

use axoneme_views::server::Limits;
use futures::{StreamExt as _, pin_mut};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
    core::GroupVersionKind,
    runtime::{WatchStreamExt as _, reflector, watcher},
};

use crate::rig::{Rig, SERVER, endpoint, fill, keyed};

fn client(rig: &Rig, user: &str) -> Client {
    let url = format!("https://{}", rig.address).parse().unwrap();
    let mut config = Config::new(url);
    config.tls_server_name = Some(SERVER.to_owned());
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(rig.authority.pem.as_bytes());
    let der: rustls::pki_types::CertificateDer<'_> = der.unwrap();
    config.root_cert = Some(vec![der.to_vec()]);
    config.auth_info.token = Some(format!("token-of-{user}").into());
    Client::try_from(config).unwrap()
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    let gvk = GroupVersionKind::gvk(axoneme_views::GROUP, axoneme_views::VERSION, kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

fn key(object: &DynamicObject) -> (String, String) {
    (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default())
}

#[tokio::test]
async fn discovery_finds_every_resource() {
    let rig = Rig::filled().await;
    let client = client(&rig, "admin");
    let groups = client.list_api_groups().await.unwrap();
    assert_eq!(groups.groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["views.axoneme.io"]);
    let resources = client.list_api_group_resources("views.axoneme.io/v1alpha1").await.unwrap();
    let names: Vec<(&str, bool)> = resources.resources.iter().map(|r| (r.name.as_str(), r.namespaced)).collect();
    assert_eq!(names, [("endpoints", true), ("identities", false), ("nodes", false), ("policytables", true)]);
    assert!(resources.resources.iter().all(|r| r.verbs == ["get", "list", "watch"]));
    let aggregated = client.list_api_groups_aggregated().await.unwrap();
    let versions = &aggregated.items[0].versions;
    assert_eq!((aggregated.items.len(), versions[0].resources.len()), (1, 4));
}

#[tokio::test]
async fn pages_give_every_object_once_and_in_order() {
    let rig = Rig::new().await;
    fill(&rig.shelf);
    let many = (0..1234).map(|i| keyed(endpoint(&format!("ns-{}", i % 7), &format!("p-{i:04}"), Some(300), "n", &[])));
    rig.shelf.endpoints.apply(many.collect::<Vec<_>>());
    let api: Api<DynamicObject> = Api::all_with(client(&rig, "admin"), &resource("Endpoint", "endpoints"));
    let whole = api.list(&ListParams::default()).await.unwrap();
    assert_eq!(whole.items.len(), 1238);
    assert!(whole.items.iter().map(key).is_sorted());
    let (mut paged, mut token, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let mut params = ListParams::default().limit(100);
        params.continue_token.clone_from(&token);
        let page = api.list(&params).await.unwrap();
        assert_eq!(page.metadata.resource_version, whole.metadata.resource_version);
        pages += 1;
        paged.extend(page.items.iter().map(key));
        token = page.metadata.continue_.filter(|t| !t.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert_eq!((pages, paged), (13, whole.items.iter().map(key).collect::<Vec<_>>()));
    let selected =
        api.list(&ListParams::default().labels("app in (p)").fields("metadata.namespace=ns-3")).await.unwrap();
    assert_eq!(selected.items.len(), 1234 / 7);
}

#[tokio::test]
async fn refusals_are_statuses_that_clients_know() {
    let rig = Rig::filled().await;
    let api = |user: &str| -> Api<DynamicObject> {
        Api::namespaced_with(client(&rig, user), "b", &resource("Endpoint", "endpoints"))
    };
    assert!(api("admin").get_opt("none").await.unwrap().is_none());
    assert_eq!(api("admin").get("web-1").await.unwrap().metadata.uid.unwrap(), "uid-web-1");
    let Err(kube::Error::Api(status)) = api("team-a").list(&ListParams::default()).await else { panic!("not refused") };
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    let Err(kube::Error::Api(status)) = api("admin").delete("web-1", &DeleteParams::default()).await else {
        panic!("deleted")
    };
    assert_eq!((status.code, status.reason.as_str()), (405, "MethodNotAllowed"));
}

/// A reflector ends with what is there, whatever was lost on the way: also by way of 410, and in both ways to begin.
#[tokio::test]
async fn a_reflector_follows_through_a_gap() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let rig = Rig::with(Limits { watches: 2, ..Limits::default() }).await;
        fill(&rig.shelf);
        let api: Api<DynamicObject> = Api::all_with(client(&rig, "admin"), &resource("Endpoint", "endpoints"));
        let writer = reflector::store::Writer::<DynamicObject>::new(resource("Endpoint", "endpoints"));
        let reader = writer.as_reader();
        let changes = reflector::reflector(writer, watcher(api, config)).default_backoff();
        pin_mut!(changes);
        let names = || -> BTreeMap<(String, String), String> {
            let node = |o: &DynamicObject| o.data["status"]["node"].as_str().unwrap_or_default().to_owned();
            reader.state().iter().map(|o| (key(o), node(o))).collect()
        };
        let mut until = async |count: usize, node: &str| {
            let done = async {
                while names().len() != count || names().get(&("a".into(), "web-1".into())).is_none_or(|n| n != node) {
                    changes.next().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), done).await.expect("the reflector follows");
        };
        until(4, "n1").await;
        rig.shelf.endpoints.apply([(("b".into(), "web-1".into()), None)]);
        until(3, "n1").await;
        // more than the log holds, while nobody reads
        for round in 0..=axoneme_views::store::LOG {
            let node = format!("n{round}");
            rig.shelf.endpoints.apply([keyed(endpoint("a", "web-1", Some(1), &node, &["10.0.0.1"]))]);
        }
        rig.shelf.endpoints.apply([keyed(endpoint("a", "web-1", Some(1), "last", &["10.0.0.1"]))]);
        until(3, "last").await;
    }
}

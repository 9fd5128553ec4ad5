use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Instant, SystemTime},
};

use axoneme_model::{Kind, ObjectRef};
use axoneme_views::{Stance, View as _, kinds::Key, resource, store::Scope};
use axoneme_wire::server::Leadership;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::{
    core::{Core, Timing},
    lease::{LeaseHold, Renewed},
    pki::Authority,
    source::{KINDS, SourceEvent},
};

fn manifests(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn of<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    all.iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_manifests_lead_to_where_views_are_served_and_register_nothing_by_themselves() {
    let views = manifests(include_str!("../../../deploy/base/views.yaml"));
    let service = of(&views, "Service", SERVICE);
    assert!(service["spec"].get("selector").is_none(), "the leader alone is asked");
    let port = &service["spec"]["ports"][0];
    assert_eq!((&port["port"], &port["targetPort"]), (&json!(443), &json!(DEFAULT_PORT)));
    let place = Place { address: "192.0.2.1".parse().unwrap(), port: DEFAULT_PORT };
    let slice = endpoint_slice("axoneme-system", place);
    // the API server matches ports by name
    assert_eq!(slice["ports"][0]["name"], port["name"]);
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], SERVICE);
    assert!(views.iter().all(|o| o["kind"] != "APIService"), "one that nobody answers for stops namespaces' deletion");
    let service = &api_service("axoneme-system", "pem")["spec"]["service"];
    assert_eq!(*service, json!({"namespace": "axoneme-system", "name": SERVICE, "port": 443}));
    let operator = manifests(include_str!("../../../deploy/base/operator.yaml"));
    let container = &operator[0]["spec"]["template"]["spec"]["containers"][0];
    assert!(container["ports"].as_array().unwrap().iter().any(|p| p["containerPort"] == DEFAULT_PORT));
}

#[test]
fn the_operator_may_do_what_views_need_and_app_teams_may_see_their_namespace() {
    let roles = manifests(include_str!("../../../deploy/base/rbac.yaml"));
    let may = |kind: &str, group: &str, resource: &str| -> (Value, Value) {
        let rules = of(&roles, kind, "axoneme-operator")["rules"].as_array().unwrap().clone();
        let with = |r: &&Value, field: &str, value: &str| r[field].as_array().unwrap().contains(&json!(value));
        let mut found = rules.iter().filter(|r| with(r, "apiGroups", group) && with(r, "resources", resource));
        let rule = found.next().unwrap_or_else(|| panic!("nothing about {resource}"));
        (rule["verbs"].clone(), rule["resourceNames"].clone())
    };
    let only = |name: &str| json!([name]);
    assert_eq!(may("ClusterRole", "authorization.k8s.io", "subjectaccessreviews"), (json!(["create"]), Value::Null));
    assert_eq!(
        may("ClusterRole", "apiregistration.k8s.io", "apiservices"),
        (json!(["get", "create", "patch", "delete"]), only("v1alpha1.views.axoneme.io"))
    );
    assert_eq!(may("ClusterRole", "", "configmaps").1, only("extension-apiserver-authentication"));
    assert_eq!(may("Role", "discovery.k8s.io", "endpointslices"), (json!(["get", "create", "patch"]), only(SERVICE)));
    assert_eq!(may("Role", "", "services"), (json!(["get"]), only(SERVICE)));
    let views = manifests(include_str!("../../../deploy/base/views.yaml"));
    let role = of(&views, "ClusterRole", "axoneme-views-namespaced");
    assert_eq!(role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"], "true");
    let namespaced: Vec<_> = resource::all().into_iter().filter(|r| r.namespaced).map(|r| r.plural).collect();
    assert_eq!(role["rules"][0]["resources"], json!(namespaced), "what is of the whole cluster is not for everybody");
}

#[test]
fn the_replicas_certificate_is_good_for_the_service() {
    let until = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 70);
    let tls = Authority::generate().unwrap().issue("axoneme-system", until).unwrap();
    assert_eq!(server_name("axoneme-system"), "axoneme-views.axoneme-system.svc");
    assert!(Certificates::new(&tls.certificate_pem, &tls.key_pem).is_ok());
}

/// An API server that keeps what is written, by path.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    version: u64,
}

const SERVICE_PATH: &str = "/api/v1/namespaces/axoneme-system/services/axoneme-views";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/axoneme-system/endpointslices/axoneme-views";
const API: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.views.axoneme.io";

impl ApiServer {
    fn wanted() -> Self {
        let api = Self::default();
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE}, "spec": {}});
        api.0.lock().unwrap().objects.insert(SERVICE_PATH.to_owned(), service);
        api
    }

    fn client(&self) -> Client {
        let stored = self.0.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let stored = stored.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (status, answer) = stored.lock().unwrap().answer(&head, &body);
                let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(response.unwrap())
            }
        });
        Client::new(service, "axoneme-system")
    }

    fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    fn object(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }
}

impl Stored {
    fn answer(&mut self, head: &http::request::Parts, body: &[u8]) -> (u16, Value) {
        let path = head.uri.path().to_owned();
        let refusal = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": reason, "reason": reason, "code": code}),
            )
        };
        match head.method {
            Method::GET => self.objects.get(&path).map_or_else(|| refusal(404, "NotFound"), |o| (200, o.clone())),
            Method::PATCH => {
                assert_eq!(head.headers["content-type"], "application/apply-patch+yaml");
                let mut object: Value = serde_json::from_slice(body).unwrap();
                self.version += 1;
                object["metadata"]["resourceVersion"] = self.version.to_string().into();
                object["metadata"]["uid"] = "u".into();
                self.writes.push(format!("apply {path}"));
                self.objects.insert(path, object.clone());
                (200, object)
            }
            Method::DELETE => {
                let asked: Value = serde_json::from_slice(body).unwrap();
                let now = self.objects.get(&path).map(|o| o["metadata"]["resourceVersion"].clone());
                if now != Some(asked["preconditions"]["resourceVersion"].clone()) {
                    return refusal(409, "Conflict");
                }
                self.writes.push(format!("delete {path}"));
                (200, self.objects.remove(&path).unwrap())
            }
            _ => panic!("{} {path}", head.method),
        }
    }
}

fn sure(hold: &LeaseHold) {
    hold.set(Some(Renewed { steady: Instant::now(), wall: axoneme_runtime::clock::wall() }));
}

struct Replica {
    registration: Registration,
    bundle: watch::Sender<String>,
    ready: watch::Sender<bool>,
    hold: LeaseHold,
}

fn replica(api: &ApiServer, address: &str) -> Replica {
    let authority = Authority::generate().unwrap();
    let until = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 70);
    let tls = authority.issue("axoneme-system", until).unwrap();
    let certificates = Certificates::new(&tls.certificate_pem, &tls.key_pem).unwrap();
    let proxy = [
        ("requestheader-client-ca-file", authority.certificate_pem.as_str()),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
    ];
    let proxy = proxy.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    certificates.trust(axoneme_views::front_proxy::FrontProxy::parse(&proxy).unwrap()).unwrap();
    let (hold, bundle, ready) =
        (LeaseHold::default(), watch::Sender::new("first".to_owned()), watch::Sender::new(true));
    let registration = Registration {
        client: api.client(),
        namespace: "axoneme-system".to_owned(),
        place: Some((Place { address: address.parse().unwrap(), port: DEFAULT_PORT }, certificates)),
        hold: hold.clone(),
        bundle: bundle.subscribe(),
        ready: ready.subscribe(),
    };
    Replica { registration, bundle, ready, hold }
}

#[tokio::test]
async fn the_leader_registers_once_and_again_when_something_changed() {
    let api = ApiServer::wanted();
    let first = replica(&api, "192.0.2.1");
    first.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [""; 0], "it does not lead");
    sure(&first.hold);
    first.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [format!("apply {SLICE}"), format!("apply {API}")], "in this order: who is asked answers");
    first.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [""; 0]);
    first.registration.look("second").await.unwrap();
    assert_eq!(api.writes(), [format!("apply {API}")]);
    // another one leads
    let second = replica(&api, "192.0.2.2");
    sure(&second.hold);
    second.registration.look("second").await.unwrap();
    assert_eq!(api.writes(), [format!("apply {SLICE}")]);
    assert_eq!(api.object(SLICE).unwrap()["endpoints"][0]["addresses"], json!(["192.0.2.2"]));
}

#[tokio::test]
async fn the_api_service_goes_with_the_service_and_where_there_is_nothing_to_show() {
    let api = ApiServer::wanted();
    let mut r = replica(&api, "192.0.2.1");
    sure(&r.hold);
    r.registration.look("first").await.unwrap();
    api.writes();
    let service = api.0.lock().unwrap().objects.remove(SERVICE_PATH).unwrap();
    r.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [format!("delete {API}")]);
    r.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [""; 0]);
    api.0.lock().unwrap().objects.insert(SERVICE_PATH.to_owned(), service);
    r.registration.look("first").await.unwrap();
    api.writes();
    r.registration.place = None;
    r.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [format!("delete {API}")], "its port is taken");
    // somebody else's of that name stays
    let theirs = json!({"metadata": {"name": "x", "resourceVersion": "9"},
        "spec": {"groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "theirs", "name": "theirs"}}});
    api.0.lock().unwrap().objects.insert(API.to_owned(), theirs);
    r.registration.look("first").await.unwrap();
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_takes_the_api_service_off_and_one_that_never_led_does_not() {
    let api = ApiServer::wanted();
    let (leader, other) = (replica(&api, "192.0.2.1"), replica(&api, "192.0.2.2"));
    leader.ready.send_replace(false);
    sure(&leader.hold);
    let cancel = CancellationToken::new();
    let tasks = [leader.registration, other.registration].map(|r| tokio::spawn(r.run(cancel.clone())));
    tokio::time::sleep(LOOK * 3).await;
    assert_eq!(api.writes(), [""; 0], "nothing is registered before there is something to show");
    // the hold is by the machine's clock, which does not stand still
    sure(&leader.hold);
    leader.ready.send_replace(true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(api.writes().len(), 2);
    sure(&leader.hold);
    leader.bundle.send_replace("second".to_owned());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(api.writes(), [format!("apply {API}")]);
    cancel.cancel();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(api.writes(), [format!("delete {API}")]);
}

fn apply(core: &mut Core, kind: Kind, object: Value) {
    core.source(SourceEvent::Apply { kind, object });
}

fn pod(name: &str, app: &str, address: &str) -> Value {
    let status = if address.is_empty() { json!({}) } else { json!({"podIPs": [{"ip": address}]}) };
    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "labels": {"app": app}},
        "spec": {"nodeName": "n1"}, "status": status})
}

fn policy(app: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "ns", "generation": 1},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}})
}

/// The state with what follows it, and a clock.
struct Shown {
    core: Core,
    follow: Follow,
    shelf: Arc<Shelf>,
    now: Instant,
}

impl Shown {
    fn new() -> Self {
        let mut core = Core::standalone(Timing::default());
        core.show();
        for kind in KINDS {
            core.source(SourceEvent::Synced(kind));
        }
        apply(&mut core, Kind::Namespace, json!({"metadata": {"name": "ns"}}));
        let address = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
        apply(
            &mut core,
            Kind::Node,
            json!({"metadata": {"name": "n1", "uid": "n1"}, "status": {"addresses": address}}),
        );
        core.lead(Leadership::Me);
        let shelf = Arc::<Shelf>::default();
        Self { core, follow: Follow::new(shelf.clone()), shelf, now: Instant::now() }
    }

    fn flush(&mut self) {
        for _ in 0..4 {
            self.now += Duration::from_secs(5);
            let flushed = self.core.flush(self.now, "2026-01-01T00:00:00Z");
            self.follow.follow(&mut self.core, flushed.ready, self.now);
        }
    }

    fn endpoint(&self, name: &str) -> Option<axoneme_views::Endpoint> {
        let key: Key = ("ns".into(), name.into());
        self.shelf.endpoints.get(&key).map(|(e, _)| e)
    }

    /// Endpoints of each table and identity, as shown.
    fn counts(&self) -> (Vec<u32>, Vec<u32>) {
        let tables = self.shelf.policy_tables.batch(&Scope::All, None, |_| true, usize::MAX);
        let identities = self.shelf.identities.batch(&Scope::All, None, |i| i.endpoints > 0, usize::MAX);
        let mut counts: (Vec<u32>, Vec<u32>) = (
            tables.items.iter().map(|(t, _)| t.endpoints).collect(),
            identities.items.iter().map(|(i, _)| i.endpoints).collect(),
        );
        counts.0.sort_unstable();
        counts.1.sort_unstable();
        counts
    }
}

#[test]
fn views_follow_pods_policies_and_what_nodes_say() {
    let mut s = Shown::new();
    assert!(s.shelf.serves("endpoints").is_err());
    s.flush();
    assert!(s.shelf.serves("endpoints").is_ok() && s.shelf.serves("nodes").is_ok());
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "db")] {
        apply(&mut s.core, Kind::Pod, pod(name, app, ""));
    }
    s.flush();
    let a = s.endpoint("a").unwrap();
    assert_eq!(a.field("status.state").as_deref(), Some("Waiting"), "it has no address yet");
    let open = a.policy.unwrap();
    assert_eq!((open.ingress, open.egress), (Stance::Open, Stance::Open));
    assert_eq!(s.counts(), (vec![3], vec![3]));
    // the node's word
    s.core.cluster.report(&("ns".into(), "a".into()), &"uid-a".into(), &["10.0.0.7".parse().unwrap()].into(), false);
    s.flush();
    let a = s.endpoint("a").unwrap();
    assert_eq!(a.field("status.state").as_deref(), Some("Ready"));
    // a policy that reads a label: identities split, and the pods that it selects are isolated
    apply(&mut s.core, Kind::NetworkPolicy, policy("web"));
    s.flush();
    let isolated = s.endpoint("a").unwrap().policy.unwrap();
    assert_eq!((isolated.ingress, isolated.egress), (Stance::Isolated, Stance::Open));
    assert_ne!(isolated.table, open.table);
    assert_eq!(s.endpoint("c").unwrap().policy.unwrap().ingress, Stance::Open);
    assert_eq!(s.counts(), (vec![1, 2], vec![1, 2]));
    let tables = s.shelf.policy_tables.batch(&Scope::All, None, |t| t.content.ingress == Stance::Isolated, 9);
    let policies: Vec<_> = tables.items[0].0.content.policies.keys().map(ToString::to_string).collect();
    assert_eq!(policies, ["NetworkPolicy ns/p"]);
    let nodes = s.shelf.nodes.batch(&Scope::All, None, |_| true, 9);
    assert_eq!((nodes.items[0].0.endpoints, nodes.items[0].0.connected), (3, false));
    // all of it goes as it came
    for name in ["a", "b", "c"] {
        s.core.source(SourceEvent::Delete(ObjectRef::new(Kind::Pod, "ns", name)));
    }
    s.core.source(SourceEvent::Delete(ObjectRef::new(Kind::Node, "", "n1")));
    s.flush();
    assert!(s.shelf.endpoints.is_empty() && s.shelf.policy_tables.is_empty() && s.shelf.nodes.is_empty());
    assert_eq!(s.counts(), (vec![], vec![]));
}

#[test]
fn what_does_not_change_is_not_told_again() {
    let mut s = Shown::new();
    apply(&mut s.core, Kind::Pod, pod("a", "web", "10.0.0.7"));
    apply(&mut s.core, Kind::NetworkPolicy, policy("web"));
    s.flush();
    let versions = |s: &Shown| {
        [
            s.shelf.endpoints.newest(),
            s.shelf.identities.newest(),
            s.shelf.nodes.newest(),
            s.shelf.policy_tables.newest(),
        ]
        .map(|v| *v.borrow())
    };
    let before = versions(&s);
    apply(&mut s.core, Kind::Pod, pod("a", "web", "10.0.0.7"));
    apply(&mut s.core, Kind::NetworkPolicy, policy("web"));
    s.flush();
    assert_eq!(versions(&s), before);
}

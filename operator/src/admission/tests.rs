use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use axoneme_model::{Kind, LabelKey, ObjectRef, Requirement, Selector};
use axoneme_webhooks::View as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    lease::{LeaseHold, Renewed},
    pki::Authority,
    source::{KINDS, SourceEvent},
    state::Cluster,
};

/// Documents of a manifest by kind.
fn manifest(text: &str) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::<String, Vec<Value>>::new();
    for document in serde_saphyr::from_multiple::<Value>(text).unwrap() {
        all.entry(document["kind"].as_str().unwrap().to_owned()).or_default().push(document);
    }
    all
}

fn configuration() -> Value {
    manifest(include_str!("../../../deploy/base/webhooks.yaml"))["ValidatingWebhookConfiguration"][0].clone()
}

/// Plural of every kind that users write, with its group, version and whether it has a namespace.
const JUDGED: [(&str, &str, &str, &str); 7] = [
    ("networking.k8s.io", "v1", "networkpolicies", "Namespaced"),
    ("cilium.io", "v2", "ciliumnetworkpolicies", "Namespaced"),
    ("cilium.io", "v2", "ciliumclusterwidenetworkpolicies", "Cluster"),
    ("cilium.io", "v2", "ciliumcidrgroups", "Cluster"),
    ("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", "Cluster"),
    ("cilium.io", "v2alpha1", "ciliumpodippools", "Cluster"),
    ("axoneme.io", "v1alpha1", "axonemeconfigs", "Cluster"),
];

#[test]
fn a_dead_webhook_can_not_lock_the_cluster() {
    let configuration = configuration();
    assert_eq!(configuration["metadata"]["name"], NAME);
    for w in configuration["webhooks"].as_array().unwrap() {
        let name = w["name"].as_str().unwrap();
        assert_eq!(w["failurePolicy"], "Ignore", "{name}");
        assert!(w["timeoutSeconds"].as_u64().is_some_and(|t| t <= 5), "{name}");
        assert_eq!((&w["sideEffects"], &w["matchPolicy"]), (&json!("None"), &json!("Equivalent")), "{name}");
        let off = json!({"key": "axoneme.io/admission", "operator": "NotIn", "values": ["off"]});
        assert_eq!(w["objectSelector"]["matchExpressions"], json!([off]), "{name}");
        let namespaced = w["rules"].as_array().unwrap().iter().any(|r| r["scope"] == "Namespaced");
        if namespaced {
            let exempt = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn",
                "values": ["axoneme-system", "kube-system"]});
            assert_eq!(w["namespaceSelector"]["matchExpressions"], json!([exempt, off]), "{name}");
        }
        assert!(w["clientConfig"].get("caBundle").is_none(), "{name}: trusted before it answers");
    }
}

#[test]
fn the_manifests_ask_for_every_kind_that_is_judged_and_lead_to_where_it_is_served() {
    let configuration = configuration();
    let mut asked = Vec::new();
    for w in configuration["webhooks"].as_array().unwrap() {
        let service = &w["clientConfig"]["service"];
        assert_eq!(service["name"], SERVICE);
        assert_eq!(service["path"], axoneme_webhooks::server::PATH);
        for r in w["rules"].as_array().unwrap() {
            let (group, version) = (r["apiGroups"][0].as_str().unwrap(), r["apiVersions"][0].as_str().unwrap());
            for resource in r["resources"].as_array().unwrap() {
                asked.push((group, version, resource.as_str().unwrap(), r["scope"].as_str().unwrap()));
                let deletes = r["operations"].as_array().unwrap().contains(&json!("DELETE"));
                let told = ["axonemeconfigs", "ciliumpodippools"].iter().any(|r| resource == r);
                assert_eq!(deletes, told, "what may be deleted without a word is not asked about");
            }
        }
    }
    asked.sort_unstable();
    let mut judged = JUDGED;
    judged.sort_unstable();
    assert_eq!(asked, judged);
    let service = &manifest(include_str!("../../../deploy/base/webhooks.yaml"))["Service"][0];
    assert_eq!((&service["metadata"]["name"], &service["spec"]["ports"][0]["port"]), (&json!(SERVICE), &json!(443)));
    assert_eq!(service["spec"]["ports"][0]["targetPort"], DEFAULT_PORT);
    let operator = &manifest(include_str!("../../../deploy/base/operator.yaml"))["Deployment"][0];
    let template = &operator["spec"]["template"];
    assert_eq!(
        service["spec"]["selector"],
        template["metadata"]["labels"]
            .as_object()
            .map(|l| { json!({"app.kubernetes.io/name": l["app.kubernetes.io/name"]}) })
            .unwrap()
    );
    let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|p| p["containerPort"] == DEFAULT_PORT));
}

#[test]
fn the_operator_may_touch_that_one_configuration_only() {
    let roles = manifest(include_str!("../../../deploy/base/rbac.yaml"));
    let all = ["ClusterRole", "Role"].into_iter().flat_map(|k| &roles[k]).flat_map(|r| r["rules"].as_array().unwrap());
    let rules: Vec<_> =
        all.filter(|r| r["apiGroups"].as_array().unwrap().contains(&json!("admissionregistration.k8s.io"))).collect();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["resources"], json!(["validatingwebhookconfigurations"]));
    assert_eq!(rules[0]["resourceNames"], json!([NAME]));
    assert_eq!(rules[0]["verbs"], json!(["get", "patch"]));
}

/// An API server with at most one configuration: merges patches by the webhooks' names, as the real one does.
#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    object: Option<Value>,
    patches: Vec<Value>,
    /// Somebody writes between the read and the patch.
    overtaken: bool,
}

impl ApiServer {
    fn client(&self) -> Client {
        let stored = self.0.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let stored = stored.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (status, answer) = answer(&mut stored.lock().unwrap(), &head, &body);
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap(),
                )
            }
        });
        Client::new(service, "axoneme-system")
    }
}

fn answer(stored: &mut Stored, head: &http::request::Parts, body: &[u8]) -> (u16, Value) {
    let refusal = |code: u16, reason: &str| {
        (
            code,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
            "reason": reason, "code": code}),
        )
    };
    assert_eq!(head.uri.path(), "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/axoneme");
    let Some(object) = &mut stored.object else { return refusal(404, "NotFound") };
    if head.method == http::Method::GET {
        return (200, object.clone());
    }
    assert_eq!(head.headers["content-type"], "application/strategic-merge-patch+json");
    let patch: Value = serde_json::from_slice(body).unwrap();
    stored.patches.push(patch.clone());
    if stored.overtaken || patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
        return refusal(409, "Conflict");
    }
    for change in patch["webhooks"].as_array().unwrap() {
        let webhooks = object["webhooks"].as_array_mut().unwrap();
        let of = webhooks.iter_mut().find(|w| w["name"] == change["name"]).expect("it names one that is there");
        of["clientConfig"]["caBundle"] = change["clientConfig"]["caBundle"].clone();
    }
    object["metadata"]["resourceVersion"] = json!("2");
    (200, object.clone())
}

fn registration(api: &ApiServer, bundle: &watch::Sender<String>) -> Registration {
    let hold = LeaseHold::default();
    hold.set(Some(Renewed { steady: std::time::Instant::now(), wall: axoneme_runtime::clock::wall() }));
    let ready = watch::channel(true).1;
    let namespace = "axoneme-system".to_owned();
    Registration { client: api.client(), namespace, hold, bundle: bundle.subscribe(), ready }
}

fn stored() -> Value {
    let mut object = configuration();
    object["metadata"]["resourceVersion"] = json!("1");
    // somebody's own, by the same object
    object["webhooks"].as_array_mut().unwrap().push(json!({"name": "theirs.example.com", "clientConfig":
        {"service": {"namespace": "theirs", "name": "axoneme-webhooks"}}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"]}));
    object
}

#[tokio::test]
async fn the_api_server_is_told_whom_to_trust_once_and_again_when_that_changes() {
    let (api, bundle) = (ApiServer::default(), watch::Sender::new("first".to_owned()));
    let mut registration = registration(&api, &bundle);
    registration.look().await.unwrap();
    assert_eq!(api.0.lock().unwrap().patches.len(), 0, "the webhooks are not wanted: nothing is made");
    api.0.lock().unwrap().object = Some(stored());
    registration.look().await.unwrap();
    registration.look().await.unwrap();
    {
        let now = api.0.lock().unwrap();
        assert_eq!(now.patches.len(), 1, "what is right is not written again");
        for w in now.object.as_ref().unwrap()["webhooks"].as_array().unwrap() {
            let ours = w["name"].as_str().unwrap().ends_with(".webhooks.axoneme.io");
            // "first"
            assert_eq!(w["clientConfig"].get("caBundle"), ours.then_some(&json!("Zmlyc3Q=")), "{w}");
        }
    }
    bundle.send_replace("second".to_owned());
    registration.look().await.unwrap();
    assert_eq!(api.0.lock().unwrap().patches.len(), 2);
    // a GitOps tool that puts the manifest back as it is
    let again = configuration();
    api.0.lock().unwrap().object.as_mut().unwrap()["webhooks"][1] = again["webhooks"][1].clone();
    registration.look().await.unwrap();
    let patch = api.0.lock().unwrap().patches.pop().unwrap();
    assert_eq!(
        patch["webhooks"],
        json!([{"name": "ciliumpolicies.webhooks.axoneme.io", "clientConfig": {"caBundle": "c2Vjb25k"}}])
    );
}

#[tokio::test]
async fn who_does_not_lead_or_is_overtaken_changes_nothing() {
    let (api, bundle) = (ApiServer::default(), watch::Sender::new("first".to_owned()));
    api.0.lock().unwrap().object = Some(stored());
    let mut registration = registration(&api, &bundle);
    registration.hold.set(None);
    registration.look().await.unwrap();
    assert_eq!(api.0.lock().unwrap().patches.len(), 0);
    registration.hold.set(Some(Renewed { steady: std::time::Instant::now(), wall: axoneme_runtime::clock::wall() }));
    api.0.lock().unwrap().overtaken = true;
    registration.look().await.unwrap();
    assert_eq!(api.0.lock().unwrap().object, Some(stored()));
    api.0.lock().unwrap().overtaken = false;
    registration.look().await.unwrap();
    assert_ne!(api.0.lock().unwrap().object, Some(stored()), "the next look writes it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_registered_before_reviews_can_be_answered() {
    let (api, bundle) = (ApiServer::default(), watch::Sender::new("first".to_owned()));
    api.0.lock().unwrap().object = Some(stored());
    let (ready, is_ready) = watch::channel(false);
    let registration = Registration { ready: is_ready, ..registration(&api, &bundle) };
    let cancel = CancellationToken::new();
    let running = tokio::spawn(registration.run(cancel.clone()));
    tokio::time::sleep(LOOK * 3).await;
    assert_eq!(api.0.lock().unwrap().patches.len(), 0);
    ready.send_replace(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.0.lock().unwrap().patches.len(), 1);
    cancel.cancel();
    running.await.unwrap();
}

fn pod(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "uid": name, "labels":
        {"app": app}}, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"}})
}

/// The state and what is known of it, event by event.
fn take(cluster: &mut Cluster, known: &Known, event: SourceEvent) {
    let about = About::of(&event);
    cluster.apply(event);
    if let Some(about) = about {
        known.follow(about, cluster);
    }
}

fn names(known: &Known, namespace: Option<&str>) -> Vec<String> {
    let mut all = Vec::new();
    known.pods(namespace, &mut |pod, of| {
        let team = of.and_then(|n| n.labels.get("team")).map_or("", |t| t);
        all.push(format!("{}={} {team}", pod.name, pod.labels.get("app").unwrap()));
        ControlFlow::Continue(())
    });
    all
}

/// They come, change by what the settings mean, and go.
fn policies_and_services(cluster: &mut Cluster, known: &Known) {
    let seen = |namespace: Option<&str>| {
        let mut all = Vec::new();
        known.policies(namespace, &mut |p| {
            all.push(p.clone());
            ControlFlow::Continue(())
        });
        all
    };
    let policy = |namespace: &str, name: &str| {
        let metadata = json!({"namespace": namespace, "name": name});
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec":
            {"endpointSelector": {}, "egress": [{"toCIDR": ["192.0.2.0/24"]}]}})
    };
    for (namespace, name) in [("a", "p"), ("a", "q"), ("b", "p")] {
        let object = policy(namespace, name);
        take(cluster, known, SourceEvent::Apply { kind: Kind::CiliumNetworkPolicy, object });
    }
    let everywhere = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name":
        "all"}, "spec": {"endpointSelector": {}, "ingress": [{}]}});
    take(cluster, known, SourceEvent::Apply { kind: Kind::CiliumClusterwideNetworkPolicy, object: everywhere });
    let names = |namespace| seen(namespace).iter().map(|p| p.object.to_string()).collect::<Vec<_>>();
    let all = "CiliumClusterwideNetworkPolicy all";
    assert_eq!(names(Some("b")), [all, "CiliumNetworkPolicy b/p"]);
    assert_eq!(names(None), [all, "CiliumNetworkPolicy a/p", "CiliumNetworkPolicy a/q", "CiliumNetworkPolicy b/p"]);
    let before = seen(Some("b"));
    let config = json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
        "spec": {"clusterName": "prod"}});
    take(cluster, known, SourceEvent::Apply { kind: Kind::AxonemeConfig, object: config });
    assert_ne!(seen(Some("b")), before, "whom a prefix means is a setting");
    let of = |kind, name| SourceEvent::Delete(ObjectRef::new(kind, "a", name));
    take(cluster, known, of(Kind::CiliumNetworkPolicy, "p"));
    assert_eq!(names(Some("a")), [all, "CiliumNetworkPolicy a/q"]);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "db"}, "spec": {}});
    take(cluster, known, SourceEvent::Apply { kind: Kind::Service, object: service });
    assert!(known.has_service("a", "db") && !known.has_service("b", "db"));
    take(cluster, known, of(Kind::Service, "db"));
    assert!(!known.has_service("a", "db"));
}

#[test]
fn what_is_known_follows_the_state() {
    let (mut cluster, known) = (Cluster::new(), Known::default());
    let mut apply = |kind, object| take(&mut cluster, &known, SourceEvent::Apply { kind, object });
    apply(Kind::Namespace, json!({"metadata": {"name": "a", "labels": {"team": "x"}}}));
    apply(Kind::Pod, pod("one", "web"));
    apply(Kind::Pod, pod("two", "web"));
    apply(Kind::Pod, pod("two", "db"));
    let mut done = pod("three", "job");
    done["status"]["phase"] = json!("Succeeded");
    apply(Kind::Pod, done);
    assert_eq!(names(&known, Some("a")), ["one=web x", "two=db x"]);
    assert_eq!((names(&known, None).len(), names(&known, Some("b")).len()), (2, 0));
    let group = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g", "labels":
        {"list": "good"}}, "spec": {"externalCIDRs": ["nonsense"]}});
    let mut apply = |kind, object| take(&mut cluster, &known, SourceEvent::Apply { kind, object });
    apply(Kind::CiliumCIDRGroup, group);
    let pool = |cidr: &str| {
        json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool", "metadata": {"name": "p"},
            "spec": {"ipv4": {"cidrs": [cidr], "maskSize": 24}}})
    };
    apply(Kind::CiliumPodIPPool, pool("10.0.0.0/16"));
    apply(Kind::CiliumPodIPPool, pool("nonsense"));
    let config = json!({"apiVersion": "axoneme.io/v1alpha1", "kind": "AxonemeConfig", "metadata": {"name": "default"},
        "spec": {"clusterName": "prod", "policy": {"cidrMatchMode": ["Nodes"]}}});
    apply(Kind::AxonemeConfig, config);
    assert!(known.has_cidr_group("g") && !known.has_cidr_group("h"), "one that is there and can't be read is there");
    let list = |value| Selector::new(vec![Requirement::equals(LabelKey::k8s("list"), value)]);
    assert!(known.has_cidr_group_like(&list("good")) && !known.has_cidr_group_like(&list("bad")));
    assert_eq!(known.pools().len(), 1, "the last good version of a pool counts");
    assert_eq!((known.options(), &*known.cluster_name()), (cluster.settings.options(), "prod"));
    assert_ne!(known.options(), axoneme_intake::Options::default());
    let node = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "n1"}, "spec": {"ipam":
        {"pools": {"allocated": [{"pool": "p", "cidrs": ["10.0.3.0/24"]}]}}}});
    take(&mut cluster, &known, SourceEvent::Apply { kind: Kind::CiliumNode, object: node });
    assert_eq!(known.blocks("p"), [("n1".into(), "10.0.3.0/24".parse().unwrap())]);
    assert!(known.blocks("q").is_empty());
    policies_and_services(&mut cluster, &known);
    let mut delete = |kind, namespace, name| {
        take(&mut cluster, &known, SourceEvent::Delete(ObjectRef::new(kind, namespace, name)));
    };
    delete(Kind::Pod, "a", "one");
    delete(Kind::Namespace, "", "a");
    delete(Kind::CiliumCIDRGroup, "", "g");
    delete(Kind::CiliumPodIPPool, "", "p");
    delete(Kind::AxonemeConfig, "", "default");
    delete(Kind::CiliumNode, "", "n1");
    assert!(known.blocks("p").is_empty());
    assert_eq!(names(&known, None), ["two=db "]);
    assert!(!known.has_cidr_group("g") && known.pools().is_empty());
    assert_eq!(known.options(), axoneme_intake::Options::default());
    for (i, kind) in KINDS.into_iter().enumerate() {
        assert!(!known.is_complete(), "{i} kinds");
        take(&mut cluster, &known, SourceEvent::Synced(kind));
    }
    assert!(known.is_complete());
}

/// Posts a review that can be answered; its status line. None: the certificate is not trusted.
async fn call(address: std::net::SocketAddr, trusted: &Authority) -> Option<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.certificate_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(server_name("axoneme-system")).unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "operation": "CREATE", "kind": {"group": "cilium.io", "version": "v2", "kind": "CiliumCIDRGroup"}, "object":
        {"metadata": {"name": "g"}, "spec": {"externalCIDRs": ["nonsense"]}}}})
    .to_string();
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.contains("spec.externalCIDRs[0]"), "{answer}");
    answer.lines().next().map(str::to_owned)
}

#[tokio::test]
async fn what_the_operators_authority_signs_is_shown_and_exchanged() {
    let until = axoneme_runtime::clock::wall() + Duration::from_hours(1);
    let (first, second) = (Authority::generate().unwrap(), Authority::generate().unwrap());
    let (tls, shown) = watch::channel(first.issue("axoneme-system", until).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cancel, metrics) = (CancellationToken::new(), Arc::new(Metrics::default()));
    let known = Arc::new(Known::default());
    let served = tokio::spawn(serve(listener, shown, known, metrics.clone(), cancel.clone()));
    assert_eq!(call(address, &first).await.as_deref(), Some("HTTP/1.1 200 OK"));
    assert_eq!(call(address, &second).await, None);
    tls.send_replace(second.issue("axoneme-system", until).unwrap());
    let exchanged = async {
        while call(address, &second).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), exchanged).await.expect("the new certificate is shown");
    // as it ends nobody makes certificates any more, and reviews are answered until then
    drop(tls);
    assert!(call(address, &second).await.is_some());
    let text = metrics.text();
    assert!(text.contains("admission_reviews_total{kind=\"CiliumCIDRGroup\",answer=\"denied\"} 3"), "{text}");
    assert!(text.contains("axoneme_operator_admission_seconds_count 3"), "{text}");
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), served).await.expect("it ends").unwrap();
}

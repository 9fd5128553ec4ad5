//! What is secret stays so: the operator's binary, at its most talkative, in front of an API server that has its Secrets, judges
//! tokens and now and then answers nonsense. All that it logs, serves and writes for people is looked through.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../node-agent/tests/common/leaks.rs"]
mod leaks;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axoneme_wire::client::{Credentials, Directory, Driver, Event, Replicas, Settings};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::{ByteString, api::core::v1::Secret as SecretObject};
use leaks::{Secret, leaks};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SYSTEM: &str = "/api/v1/namespaces/axoneme-system";
/// What the operator shows the API server, and what agents show it: one that is taken, one that is refused, one of which the
/// answer can't be read.
const OWN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvd24tb2YtdGhlLW9wZXJhdG9yIn0.b3duLXNpZ25hdHVyZS1heG9uZW1l";
const TAKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZ2VudC10aGF0LWlzLXRha2VuIn0.dGFrZW4tc2lnbmF0dXJlLWF4b25lbWU";
const REFUSED: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZ2VudC1yZWZ1c2VkLWhlcmUifQ.cmVmdXNlZC1zaWduYXR1cmUtYXhvbmVtZQ";
const GARBLED: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZ2VudC1nYXJibGVkLWhlcmUifQ.Z2FyYmxlZC1zaWduYXR1cmUtYXhvbmVtZQ";
const PLURALS: [&str; 20] = [
    "namespaces",
    "pods",
    "nodes",
    "services",
    "endpointslices",
    "networkpolicies",
    "clusternetworkpolicies",
    "ciliumnetworkpolicies",
    "ciliumclusterwidenetworkpolicies",
    "ciliumcidrgroups",
    "ciliumidentities",
    "ciliumnodes",
    "ciliumnodeconfigs",
    "ciliumpodippools",
    "axonemeconfigs",
    "secrets",
    "configmaps",
    "events",
    "leases",
    "apiservices",
];

/// An API server of maps. Watches tell nothing.
#[derive(Default)]
struct Api {
    objects: Mutex<BTreeMap<String, Value>>,
    version: AtomicUsize,
    /// Requests that showed the operator's token.
    shown: AtomicUsize,
    reviews: AtomicUsize,
    garbled: AtomicUsize,
}

type Answer = (u16, Value);

fn refusal(code: u16, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code});
    (code, status)
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (k, v) in patch {
        merge(&mut into[k], v);
    }
}

impl Api {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.objects.lock().unwrap()
    }

    fn put(&self, path: String, mut object: Value) -> Value {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["metadata"]["uid"] = format!("uid-{version}").into();
        self.objects().insert(path, object.clone());
        object
    }

    fn review(&self, body: &Value) -> Answer {
        self.reviews.fetch_add(1, Ordering::SeqCst);
        let token = body["spec"]["token"].as_str().unwrap().to_owned();
        let status = match token.as_str() {
            TAKEN => json!({"authenticated": true, "audiences": [axoneme_wire::TOKEN_AUDIENCE], "user": {
                "username": "system:serviceaccount:axoneme-system:axoneme-agent",
                "extra": {"authentication.kubernetes.io/node-name": ["n1"]}}}),
            GARBLED => {
                self.garbled.fetch_add(1, Ordering::SeqCst);
                json!({"authenticated": "perhaps"})
            }
            _ => json!({"authenticated": false, "error": "token has expired"}),
        };
        // as the real one: the answer repeats what was asked
        let mut answer = body.clone();
        (answer["kind"], answer["apiVersion"]) = ("TokenReview".into(), "authentication.k8s.io/v1".into());
        answer["metadata"] = json!({});
        answer["status"] = status;
        (201, answer)
    }

    fn get(&self, path: &str) -> Answer {
        if let Some(object) = self.objects().get(path) {
            return (200, object.clone());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if !PLURALS.contains(&last) {
            return refusal(404, "NotFound");
        }
        let below = format!("{path}/");
        let items: Vec<Value> =
            self.objects().iter().filter(|(p, _)| p.starts_with(&below)).map(|(_, o)| o.clone()).collect();
        let version = self.version.load(Ordering::SeqCst).to_string();
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}))
    }

    fn answer(&self, method: &Method, path: &str, body: &Value) -> Answer {
        match *method {
            Method::GET => self.get(path),
            Method::POST if path.ends_with("/tokenreviews") => self.review(body),
            Method::POST => {
                let at = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or("unnamed"));
                if self.objects().contains_key(&at) {
                    refusal(409, "AlreadyExists")
                } else {
                    (201, self.put(at, body.clone()))
                }
            }
            Method::DELETE => match self.objects().remove(path) {
                Some(object) => (200, object),
                None => refusal(404, "NotFound"),
            },
            Method::PUT => (200, self.put(path.to_owned(), body.clone())),
            _ => {
                let path = path.trim_end_matches("/status");
                let mut object = self.objects().get(path).cloned().unwrap_or_else(|| json!({}));
                merge(&mut object, body);
                (200, self.put(path.to_owned(), object))
            }
        }
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let bearer = format!("Bearer {OWN}");
        self.shown
            .fetch_add(usize::from(head.headers.get("authorization").is_some_and(|h| *h == bearer)), Ordering::SeqCst);
        let query = head.uri.query().unwrap_or_default();
        let (code, answer) = if query.contains("sendInitialEvents") {
            refusal(422, "Invalid")
        } else if query.contains("watch=true") {
            std::future::pending().await
        } else {
            let body = body.collect().await.unwrap().to_bytes();
            self.answer(&head.method, head.uri.path(), &serde_json::from_slice(&body).unwrap_or_default())
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

async fn listen(api: Arc<Api>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let api = api.clone();
            tokio::task::spawn(async move {
                let service = service_fn(move |request| api.clone().serve(request));
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

struct Token(&'static str);

#[async_trait::async_trait]
impl Credentials for Token {
    async fn token(&self) -> std::io::Result<String> {
        Ok(self.0.to_owned())
    }
}

/// Where the operator says that it is.
struct Told(Arc<Api>);

#[async_trait::async_trait]
impl Directory for Told {
    async fn replicas(&self) -> std::io::Result<Replicas> {
        let objects = self.0.objects();
        let data = |name: &str| objects.get(&format!("{SYSTEM}/configmaps/{name}")).map(|o| o["data"].clone());
        let (operators, ca) = data("axoneme-operators").zip(data("axoneme-ca")).ok_or(std::io::ErrorKind::NotFound)?;
        let addresses: Vec<String> =
            operators.as_object().unwrap().values().map(|v| v.as_str().unwrap().to_owned()).collect();
        Ok(Replicas::from_config_maps(&addresses, None, ca["ca.crt"].as_str().unwrap()))
    }
}

/// An agent with this token, which tries for as long as it is refused.
fn agent(api: &Arc<Api>, token: &'static str, cancel: &CancellationToken) -> mpsc::Receiver<Event> {
    let settings = Settings { node: "n1".into(), agent_version: "test".into(), resume: None };
    let (driver, client, events) = Driver::new(settings, Arc::new(Told(api.clone())), Arc::new(Token(token)));
    let cancel = cancel.child_token();
    tokio::task::spawn(async move {
        driver.run(cancel).await;
        drop(client);
    });
    events
}

/// Ends with the test, whatever becomes of that.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn start(dir: &std::path::Path, api: std::net::SocketAddr, health: u16) -> Running {
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{api}")}}],
        "users": [{"name": "u", "user": {"token": OWN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(dir.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_axoneme-operator"));
    command.args(["--skip-crds", "--log", "trace", "--stream-port", "0", "--webhook-port", "0", "--views-port", "0"]);
    command.args(["--health-port", &health.to_string()]).arg("--config-dir").arg(dir);
    command.env_clear().env("KUBECONFIG", dir.join("kubeconfig")).stderr(log).stdout(Stdio::null());
    Running(command.spawn().unwrap())
}

/// A Secret with a key, of which nobody can read the rest.
fn garbled(key: &str) -> Value {
    let data = BTreeMap::from([("tls.key".to_owned(), ByteString(key.as_bytes().to_vec()))]);
    let mut object = serde_json::to_value(SecretObject { data: Some(data), ..SecretObject::default() }).unwrap();
    object["metadata"] = json!({"name": "axoneme-ca", "namespace": "axoneme-system"});
    object["immutable"] = "perhaps".into();
    object
}

/// Keys of all Secrets, and how they look in the JSON of one.
fn keys(api: &Api) -> Vec<Secret> {
    let mut all = Vec::new();
    for (_, object) in api.objects().iter().filter(|(path, _)| path.contains("/secrets/")) {
        let secret: SecretObject = serde_json::from_value(object.clone()).unwrap();
        let private = |k: &String| std::path::Path::new(k).extension().is_some_and(|e| e == "key");
        for (name, value) in secret.data.unwrap_or_default().into_iter().filter(|(name, _)| private(name)) {
            all.push(Secret::of_pem("a key of a Secret", std::str::from_utf8(&value.0).unwrap()));
            all.push(Secret::of("a Secret's data", object["data"][&name].as_str().unwrap()));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_keys_are_in_no_log_condition_event_metric_or_error() {
    let (api, dir, cancel) = (Arc::new(Api::default()), tempfile::tempdir().unwrap(), CancellationToken::new());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let secret = format!("{SYSTEM}/secrets/axoneme-ca");
    let broken = api.put(secret.clone(), garbled(&key));
    let encoded = broken["data"]["tls.key"].as_str().unwrap().to_owned();
    let address = listen(api.clone()).await;
    let health = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let _running = start(dir.path(), address, health);
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    until("the Secret that can't be read is told", || log().contains("no authority for certificates yet")).await;
    api.objects().remove(&secret);
    let told = |name: &str| api.objects().contains_key(&format!("{SYSTEM}/configmaps/{name}"));
    until("the operator says where it is", || told("axoneme-operators") && told("axoneme-ca")).await;

    let _refused = agent(&api, REFUSED, &cancel);
    let _garbled = agent(&api, GARBLED, &cancel);
    until("an agent is refused", || log().contains("token has expired")).await;
    until("the answer about another is nonsense", || log().contains("the token can't be reviewed")).await;
    let mut taken = agent(&api, TAKEN, &cancel);
    let said = tokio::time::timeout(Duration::from_mins(1), taken.recv()).await.expect("its token is good");
    assert!(matches!(said, Some(Event::Connected { .. })), "{said:?}");
    cancel.cancel();
    assert!(api.shown.load(Ordering::SeqCst) > 10 && api.reviews.load(Ordering::SeqCst) > 2);
    assert!(api.garbled.load(Ordering::SeqCst) > 0);

    let mut secrets = vec![
        Secret::of("the operator's token", OWN),
        Secret::of("an agent's token", TAKEN),
        Secret::of("a refused token", REFUSED),
        Secret::of("a token of which the answer is nonsense", GARBLED),
        Secret::of_pem("the key of a Secret that can't be read", &key),
        Secret::of("the data of a Secret that can't be read", &encoded),
    ];
    let made = keys(&api);
    assert!(made.len() >= 2, "{made:?}");
    secrets.extend(made);
    let log = log();
    for module in ["TRACE", "hyper", "h2::", "rustls", "axoneme_operator"] {
        assert!(log.contains(module), "nothing of {module} in a log at trace level");
    }
    // what it wrote for people: conditions, Events, ConfigMaps, registrations; all but Secrets
    let said = |(path, o): (&String, &serde_json::Value)| (!path.contains("/secrets/")).then(|| format!("{path} {o}"));
    let written: Vec<String> = api.objects().iter().filter_map(said).collect();
    let page = tokio::task::spawn_blocking(move || served(health)).await.unwrap();
    assert!(page.contains("# EOF"), "{page}");
    for (what, text) in [("the log", log), ("objects", written.join("\n")), ("metrics", page)] {
        let found = leaks(&text, &secrets);
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
}

fn served(port: u16) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

//! An API server in memory, as far as the command line asks one: objects by path, lists, server-side apply with field
//! managers and conflicts, deletion, and failures on demand.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};

/// What becomes of a request before it is looked at: `None` goes on.
pub(crate) type Trap = Box<dyn FnMut(&str, &str) -> Option<(u16, String)> + Send>;

#[derive(Default)]
pub(crate) struct State {
    /// By path: `/api/v1/namespaces/x`, `/apis/apps/v1/namespaces/x/daemonsets/y`.
    pub(crate) objects: BTreeMap<String, Value>,
    /// Method and path of everything that changed something, in order; a no-op apply is not among them.
    pub(crate) writes: Vec<String>,
    /// Everything that was asked.
    pub(crate) asked: Vec<String>,
    pub(crate) trap: Option<Trap>,
    /// Paths of workloads whose pods never become ready.
    pub(crate) unready: Vec<String>,
    version: u64,
}

/// Serves until it is dropped.
pub(crate) struct ApiServer {
    pub(crate) state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    pub(crate) kubeconfig: PathBuf,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(shared.clone(), request));
                    // the client may go whenever it likes
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let mut file = std::fs::File::create(&kubeconfig).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [
                {"name": "lab", "cluster": {"server": format!("http://{address}")}},
                // nobody listens on the discard port of loopback
                {"name": "gone", "cluster": {"server": "http://127.0.0.1:9"}},
            ],
            "users": [{"name": "me", "user": {}}],
            "contexts": [
                {"name": "lab", "context": {"cluster": "lab", "user": "me"}},
                {"name": "gone", "context": {"cluster": "gone", "user": "me"}},
            ],
        });
        file.write_all(config.to_string().as_bytes()).unwrap();
        Self { state, _runtime: runtime, _dir: dir, kubeconfig }
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn trap(&self, trap: impl FnMut(&str, &str) -> Option<(u16, String)> + Send + 'static) {
        self.state.lock().unwrap().trap = Some(Box::new(trap));
    }

    /// What was written since the last look.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().writes)
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let (code, body) = state.lock().unwrap().answer(&head.method, &path, &query, &body);
    let body = if path.ends_with("/log") {
        Bytes::from(body.as_str().unwrap_or_default().to_owned())
    } else {
        Bytes::from(body.to_string())
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn status(code: u16, message: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}))
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &[u8]) -> (u16, Value) {
        self.asked.push(format!("{method} {path}"));
        if let Some((code, message)) = self.trap.as_mut().and_then(|trap| trap(method.as_str(), path)) {
            return status(code, &message);
        }
        match *method {
            Method::GET => self.read(path, query),
            Method::PATCH => self.apply(path, query, body),
            Method::DELETE => self.delete(path),
            _ => status(405, "not here"),
        }
    }

    fn read(&mut self, path: &str, query: &str) -> (u16, Value) {
        if let Some(object) = self.objects.get(path) {
            return (200, object.clone());
        }
        let Some(plural) = path.rsplit('/').next().filter(|last| is_collection(path, last)) else {
            return status(404, &format!("{path} not found"));
        };
        let selector = query.split('&').find_map(|q| q.strip_prefix("labelSelector=")).unwrap_or_default();
        let selector = selector.replace("%2F", "/").replace("%3D", "=");
        let namespaced = path.contains("/namespaces/");
        let prefix = path.trim_end_matches(plural).trim_end_matches('/');
        let all = self.objects.iter().filter(|(p, o)| {
            let inside = p.starts_with(prefix)
                && p.rsplit('/').nth(1) == Some(plural)
                && (!namespaced || p.starts_with(&format!("{path}/")));
            let labels = selector.split(',').filter(|s| !s.is_empty()).all(|one| {
                let (key, value) = one.split_once('=').unwrap_or((one, ""));
                o["metadata"]["labels"][key] == value
            });
            inside && labels
        });
        let items: Vec<Value> = all.map(|(_, o)| o.clone()).collect();
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn apply(&mut self, path: &str, query: &str, body: &[u8]) -> (u16, Value) {
        let Ok(wanted) = serde_json::from_slice::<Value>(body) else { return status(400, "not JSON") };
        let manager = query.split('&').find_map(|q| q.strip_prefix("fieldManager=")).unwrap_or_default().to_owned();
        let force = query.contains("force=true");
        let before = self.objects.get(path).cloned();
        let mut now = before.clone().unwrap_or_else(|| json!({"metadata": {}}));
        let mut said = Map::new();
        for (key, value) in wanted.as_object().unwrap() {
            if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                said.insert(format!("f:{key}"), fields(value));
            }
        }
        let entries = now["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let (mine, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e["manager"] == manager.as_str());
        for other in &others {
            for leaf in leaves(&other["fieldsV1"]) {
                let (old, new) = (at(&now, &leaf), at(&wanted, &leaf));
                if !new.is_null() && old != new && !force {
                    return status(
                        409,
                        &format!(
                            "Apply failed with 1 conflict: conflict with {}: .{}",
                            other["manager"],
                            leaf.join(".")
                        ),
                    );
                }
            }
        }
        for leaf in mine.iter().flat_map(|e| leaves(&e["fieldsV1"])) {
            let kept = others.iter().any(|o| leaves(&o["fieldsV1"]).contains(&leaf));
            if at(&wanted, &leaf).is_null() && !kept {
                take(&mut now, &leaf);
            }
        }
        merge(&mut now, &wanted);
        let mut entries = others;
        entries.push(json!({"manager": manager, "operation": "Apply", "fieldsV1": said}));
        now["metadata"]["managedFields"] = json!(entries);
        self.settle(path, &mut now);
        if before.as_ref() == Some(&now) || query.contains("dryRun=All") {
            return (200, now);
        }
        self.version += 1;
        let spec_changed = before.as_ref().is_none_or(|b| b["spec"] != now["spec"]);
        if spec_changed {
            let generation = now["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            now["metadata"]["generation"] = generation.into();
        }
        now["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.settle(path, &mut now);
        self.writes.push(format!("{} {path}", if before.is_some() { "PATCH" } else { "CREATE" }));
        self.objects.insert(path.to_owned(), now.clone());
        (if before.is_some() { 200 } else { 201 }, now)
    }

    /// What controllers would make of it.
    fn settle(&mut self, path: &str, object: &mut Value) {
        let generation = object["metadata"]["generation"].clone();
        let ready = if self.unready.iter().any(|u| u == path) { 1 } else { 2 };
        if path.contains("/daemonsets/") {
            object["status"] = json!({"observedGeneration": generation, "desiredNumberScheduled": 2,
                "updatedNumberScheduled": 2, "numberReady": ready});
        } else if path.contains("/deployments/") {
            let replicas = object["spec"]["replicas"].clone();
            object["status"] = json!({"observedGeneration": generation, "replicas": replicas,
                "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas});
        } else if path.contains("/customresourcedefinitions/") {
            object["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        }
    }

    fn delete(&mut self, path: &str) -> (u16, Value) {
        if self.objects.remove(path).is_none() {
            return status(404, &format!("{path} not found"));
        }
        self.writes.push(format!("DELETE {path}"));
        if let Some(namespace) = path.strip_prefix("/api/v1/namespaces/").filter(|name| !name.contains('/')) {
            let inside = format!("/namespaces/{namespace}/");
            self.objects.retain(|p, _| !p.contains(&inside));
        }
        (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }
}

fn is_collection(path: &str, last: &str) -> bool {
    // `/api/v1/x`, `/apis/g/v/x`, and both with `namespaces/ns/x`
    let parts = path.trim_start_matches('/').split('/').count();
    let base = if path.starts_with("/apis/") { 4 } else { 3 };
    last.ends_with('s') && (parts == base || parts == base + 2 && path.contains("/namespaces/"))
}

fn fields(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (format!("f:{k}"), fields(v))).collect()),
        _ => json!({}),
    }
}

fn leaves(fields: &Value) -> Vec<Vec<String>> {
    let Some(map) = fields.as_object().filter(|m| m.keys().any(|k| k.starts_with("f:"))) else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for (key, below) in map {
        if let Some(name) = key.strip_prefix("f:") {
            for mut leaf in leaves(below) {
                leaf.insert(0, name.to_owned());
                all.push(leaf);
            }
        }
    }
    all
}

fn at<'v>(object: &'v Value, leaf: &[String]) -> &'v Value {
    leaf.iter().try_fold(object, |o, key| o.get(key)).unwrap_or(&Value::Null)
}

fn take(object: &mut Value, leaf: &[String]) {
    let Some((last, path)) = leaf.split_last() else { return };
    if let Some(Value::Object(map)) = path.iter().try_fold(object, |o, key| o.get_mut(key)) {
        map.remove(last);
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => into.clone_from(from),
    }
}

//! What an API server and its controllers would make of the shop's manifests: pods of Deployments, addresses of
//! Services, and their EndpointSlices. The rest is taken as it is written.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// A pod to start: its object is among the shop's, its container is a workload with these words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// The arguments of its container.
    pub(super) words: Vec<String>,
    labels: BTreeMap<String, String>,
    /// Named ports of its container.
    ports: BTreeMap<String, u64>,
}

/// A service with its address.
#[derive(Clone, Debug)]
struct Service {
    object: Value,
    address: String,
    selector: BTreeMap<String, String>,
}

/// A file of manifests, made ready for one node without an API server.
#[derive(Debug, Default)]
pub(super) struct Shop {
    objects: Vec<Value>,
    pub(super) pods: Vec<Member>,
    services: Vec<Service>,
}

fn text(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn map(object: &Value, path: &str) -> BTreeMap<String, String> {
    let pairs = object.pointer(path).and_then(Value::as_object).into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn list<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

impl Shop {
    /// Reads manifests for a node of that name and address.
    pub(super) fn read(manifests: &str, node: &str, node_address: &str) -> Result<Self> {
        let mut shop = Self::default();
        shop.objects.push(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
            "status": {"addresses": [{"type": "InternalIP", "address": node_address}]},
        }));
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).context("reading manifests")?;
        for document in documents {
            match document.get("kind").and_then(Value::as_str) {
                Some("Deployment") => shop.deployment(&document, node)?,
                Some("Service") => shop.service(document)?,
                _ => shop.objects.push(document),
            }
        }
        Ok(shop)
    }

    fn deployment(&mut self, object: &Value, node: &str) -> Result<()> {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let template = object.pointer("/spec/template").with_context(|| format!("Deployment {name}: no template"))?;
        let replicas = object.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        for n in 1..=replicas {
            let (pod, uid) = (format!("{name}-{n}"), format!("{namespace}-{name}-{n}"));
            let mut metadata = template.get("metadata").cloned().unwrap_or_else(|| json!({}));
            let mut spec = template.get("spec").cloned().unwrap_or_else(|| json!({}));
            for (key, value) in [("namespace", &namespace), ("name", &pod), ("uid", &uid)] {
                set(&mut metadata, key, json!(value))?;
            }
            set(&mut spec, "nodeName", json!(node))?;
            self.pods.push(Member {
                namespace: namespace.clone(),
                name: pod,
                uid,
                words: list(&spec, "/containers/0/args").filter_map(Value::as_str).map(str::to_owned).collect(),
                labels: map(&metadata, "/labels"),
                ports: list(&spec, "/containers/0/ports")
                    .filter_map(|port| Some((text(port, "/name"), port.get("containerPort")?.as_u64()?)))
                    .collect(),
            });
            self.objects.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
        }
        Ok(())
    }

    fn service(&mut self, mut object: Value) -> Result<()> {
        let address = format!("10.96.0.{}", self.services.len() + 10);
        let selector = map(&object, "/spec/selector");
        let spec = object.get_mut("spec").context("a Service has a spec")?;
        set(spec, "clusterIP", json!(address))?;
        set(spec, "clusterIPs", json!([address]))?;
        self.services.push(Service { object, address, selector });
        Ok(())
    }

    /// The address of a service.
    pub(super) fn address(&self, namespace: &str, name: &str) -> Result<&str> {
        let found = self
            .services
            .iter()
            .find(|s| text(&s.object, "/metadata/namespace") == namespace && text(&s.object, "/metadata/name") == name);
        found.map(|s| s.address.as_str()).with_context(|| format!("no Service {namespace}/{name}"))
    }

    /// All objects but the slices, as one manifest.
    pub(super) fn objects(&self) -> String {
        let services = self.services.iter().map(|s| &s.object);
        let items: Vec<&Value> = self.objects.iter().chain(services).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }

    /// The EndpointSlices once pods have their addresses, by uid; pods without one are left out.
    pub(super) fn slices(&self, addresses: &BTreeMap<String, String>) -> String {
        let items: Vec<Value> = self.services.iter().map(|s| self.slice(s, addresses)).collect();
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }

    fn slice(&self, service: &Service, addresses: &BTreeMap<String, String>) -> Value {
        let (namespace, name) = (text(&service.object, "/metadata/namespace"), text(&service.object, "/metadata/name"));
        let behind: Vec<&Member> = self
            .pods
            .iter()
            .filter(|pod| pod.namespace == namespace)
            .filter(|pod| service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
            .collect();
        let port = |port: &Value| {
            let target = port.get("targetPort").or_else(|| port.get("port"));
            let named =
                target.and_then(Value::as_str).and_then(|name| behind.iter().find_map(|pod| pod.ports.get(name)));
            let number = named.copied().or_else(|| target.and_then(Value::as_u64));
            json!({"name": text(port, "/name"), "protocol": "TCP", "port": number})
        };
        let endpoint = |pod: &&Member| {
            addresses.get(&pod.uid).map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": namespace, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "ports": list(&service.object, "/spec/ports").map(port).collect::<Vec<_>>(),
            "endpoints": behind.iter().filter_map(endpoint).collect::<Vec<_>>(),
        })
    }
}

fn set(object: &mut Value, key: &str, value: Value) -> Result<()> {
    object.as_object_mut().context("an object of a manifest")?.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Shop {
        Shop::read(include_str!("../../../tools/demo/shop.yaml"), "n1", "192.0.2.1").unwrap()
    }

    #[test]
    fn deployments_become_pods_of_the_node() {
        let shop = shop();
        let names: Vec<&str> = shop.pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["web-1", "api-1", "api-2", "worker-1", "db-1"]);
        assert_eq!(shop.pods[1].words, ["serve", "--name", "api", "--tcp", "8080", "--udp", "8081"]);
        let list: Value = serde_json::from_str(&shop.objects()).unwrap();
        let pods: Vec<&Value> = super::list(&list, "/items").filter(|o| o["kind"] == "Pod").collect();
        assert_eq!(pods.len(), 5);
        assert!(pods.iter().all(|pod| pod["spec"]["nodeName"] == "n1" && pod["metadata"]["labels"]["app"].is_string()));
        assert!(super::list(&list, "/items").all(|o| o["kind"] != "Deployment"));
    }

    #[test]
    fn named_target_ports_and_addresses_reach_the_slices() {
        let shop = shop();
        let addresses = BTreeMap::from([
            ("shop-api-api-2".to_owned(), "10.0.0.3".to_owned()),
            ("shop-data-db-1".to_owned(), "10.0.0.4".to_owned()),
        ]);
        let slices: Value = serde_json::from_str(&shop.slices(&addresses)).unwrap();
        let of = |name: &str| {
            super::list(&slices, "/items").find(|s| s["metadata"]["name"] == format!("{name}-1")).unwrap().clone()
        };
        assert_eq!(of("db")["ports"][0]["port"], 5432);
        assert_eq!(of("api")["ports"][0]["port"], 8080);
        assert_eq!(of("api")["endpoints"], json!([{"addresses": ["10.0.0.3"], "conditions": {"ready": true}}]));
        assert_eq!(of("web")["endpoints"], json!([]), "web has no address yet");
        assert_ne!(shop.address("shop-api", "api").unwrap(), shop.address("shop-data", "db").unwrap());
        assert!(shop.address("shop-api", "db").is_err());
    }
}

//! How long a review takes at 200 a second, over TLS and HTTP/2 on loopback, as the API server calls.
//!
//! `cargo run --release -p axoneme-webhooks --example webhook_latency [SECONDS] [PODS] [POLICIES]` prints percentiles for
//! each of four objects: a small CIDR group, a usual policy, and the dearest questions: a clusterwide policy that selects
//! nothing (as many pods as are looked at for one object), and one of twenty rules that is compared with every rule of every
//! policy there is. Calls begin at their time, whether or not those before are answered: a server that stands still is seen by all calls
//! that would have come meanwhile.

use std::{
    net::Ipv4Addr,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use axoneme_intake::{Options, Parsed, PodIpPool};
use axoneme_model::{
    Cidr, Policy, Selector,
    world::{Namespace, Pod},
};
use axoneme_webhooks::{
    View,
    server::{Certificates, Limits, Server},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

const RATE: u32 = 200;
const NAME: &str = "axoneme-webhooks.axoneme-system.svc";

/// Pods of a hundred namespaces with ten labels each.
struct Pods {
    pods: Vec<Pod>,
    policies: Vec<Policy>,
}

impl View for Pods {
    fn options(&self) -> Options {
        Options::default()
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn cluster_name(&self) -> Arc<str> {
        "default".into()
    }

    fn pods(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Pod, Option<&Namespace>) -> ControlFlow<()>) {
        for pod in self.pods.iter().filter(|p| namespace.is_none_or(|n| n == &*p.namespace)) {
            if look(pod, None).is_break() {
                return;
            }
        }
    }

    fn has_cidr_group(&self, _: &str) -> bool {
        false
    }

    fn has_cidr_group_like(&self, _: &Selector) -> bool {
        false
    }

    fn has_service(&self, _: &str, _: &str) -> bool {
        false
    }

    fn policies(&self, namespace: Option<&str>, look: &mut dyn FnMut(&Policy) -> ControlFlow<()>) {
        let of = |p: &&Policy| p.object.namespace.is_empty() || namespace.is_none_or(|n| n == &*p.object.namespace);
        let _ = self.policies.iter().filter(of).try_for_each(look);
    }

    fn pools(&self) -> Vec<Arc<PodIpPool>> {
        Vec::new()
    }

    fn blocks(&self, _: &str) -> Vec<(Arc<str>, Cidr)> {
        Vec::new()
    }
}

/// Policies of a hundred namespaces, each of two rules about ports of its own.
fn policies(count: usize) -> Vec<Policy> {
    let policy = |i: usize| {
        let rule = |port: usize| {
            json!({"fromEndpoints": [{"matchLabels": {"app": format!("a{}", i % 1000)}}],
                "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}]})
        };
        let object = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": format!("p{i}"), "namespace": format!("ns{}", i % 100)}, "spec":
            {"endpointSelector": {"matchLabels": {"app": format!("a{}", i % 1000)}}, "ingress": [rule(8080), rule(9090)]}});
        match axoneme_intake::parse(&object) {
            Ok(Parsed::Policy(policy)) => Some(policy),
            _ => None,
        }
    };
    (0..count).filter_map(policy).collect()
}

fn pods(count: usize, others: usize) -> Pods {
    let pod = |i: usize| {
        let mut labels: serde_json::Map<String, Value> = (0..9).map(|l| (format!("l{l}"), json!("x"))).collect();
        labels.insert("app".into(), json!(format!("a{}", i % 1000)));
        let object = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"}, "metadata":
            {"name": format!("p{i}"), "namespace": format!("ns{}", i % 100), "uid": format!("u{i}"), "labels": labels}});
        axoneme_intake::pod(&object).ok().flatten()
    };
    Pods { pods: (0..count).filter_map(pod).collect(), policies: policies(others) }
}

fn review(kind: &str, version: &str, spec: &Value) -> Bytes {
    let object = json!({"apiVersion": format!("cilium.io/{version}"), "kind": kind,
        "metadata": {"name": "x", "namespace": "ns7"}, "spec": spec});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "operation": "CREATE", "name": "x", "namespace": "ns7", "object": object,
        "kind": {"group": "cilium.io", "version": version, "kind": kind}}});
    review.to_string().into()
}

async fn connect(address: std::net::SocketAddr, trust: rustls::RootCertStore) -> SendRequest<Full<Bytes>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.expect("TLS 1.3").with_root_certificates(trust).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.expect("loopback");
    stream.set_nodelay(true).expect("a socket");
    let name = rustls::pki_types::ServerName::try_from(NAME).expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("handshake");
    let stream = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Times from when each call was due to its whole answer, sorted.
async fn measure(sender: &SendRequest<Full<Bytes>>, body: &Bytes, calls: u32) -> Vec<Duration> {
    let started = tokio::time::Instant::now() + Duration::from_millis(20);
    let mut under_way = tokio::task::JoinSet::new();
    for i in 0..calls {
        let (mut sender, body, due) = (sender.clone(), body.clone(), started + Duration::from_secs(1) / RATE * i);
        tokio::time::sleep_until(due).await;
        under_way.spawn(async move {
            // the timer's own millisecond is no part of the call
            let sent = Instant::now();
            let request = http::Request::post(format!("https://{NAME}/validate?timeout=2s"));
            let request = request.header("content-type", "application/json").body(Full::new(body)).expect("a request");
            let response = sender.send_request(request).await.expect("an answer");
            assert!(response.status().is_success());
            response.into_body().collect().await.expect("a body");
            sent.elapsed()
        });
    }
    let mut times = under_way.join_all().await;
    times.sort();
    times
}

/// Objects by what they are.
fn cases() -> [(&'static str, Bytes); 4] {
    let rules: Vec<Value> = (0..20)
        .map(|i| {
            json!({"fromEndpoints": [{"matchLabels": {"app": format!("a{i}")}}],
            "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]})
        })
        .collect();
    [
        (
            "CIDR group of 10 prefixes",
            review(
                "CiliumCIDRGroup",
                "v2",
                &json!({"externalCIDRs":
            (0..10).map(|i| format!("10.{i}.0.0/16")).collect::<Vec<_>>()}),
            ),
        ),
        (
            "policy of 20 rules",
            review(
                "CiliumNetworkPolicy",
                "v2",
                &json!({"endpointSelector": {"matchLabels": {"app": "a7"}}, "ingress": rules}),
            ),
        ),
        (
            "policy that selects nothing",
            review(
                "CiliumClusterwideNetworkPolicy",
                "v2",
                &json!({"endpointSelector": {"matchLabels": {"app": "none"}}, "ingress": [{}]}),
            ),
        ),
        (
            "policy about all others",
            review(
                "CiliumClusterwideNetworkPolicy",
                "v2",
                &json!({"endpointSelector": {}, "ingressDeny": (0..20).map(|i| json!({"fromEntities": ["world"], "toPorts":
                    [{"ports": [{"port": (i + 1).to_string(), "protocol": "UDP"}]}]})).collect::<Vec<_>>()}),
            ),
        ),
    ]
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u32>().expect("a number"));
    let mut argument = |default| arguments.next().unwrap_or(default);
    let (seconds, count, others) = (argument(10), argument(5_000), argument(10_000));
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let mut trust = rustls::RootCertStore::empty();
    trust.add(made.cert.der().clone()).expect("a certificate");
    let certificates = Certificates::new(&made.cert.pem(), &made.signing_key.serialize_pem()).expect("a certificate");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = Server::new(Arc::new(pods(count as usize, others as usize)), Limits::default(), |_| {});
    tokio::spawn(server.serve(listener, certificates, tokio_util::sync::CancellationToken::new()));
    let sender = connect(address, trust).await;
    println!(
        "{RATE} reviews/s for {seconds} s each, TLS and HTTP/2 on loopback, {count} pods and {others} policies known"
    );
    for (name, body) in cases() {
        measure(&sender, &body, RATE / 2).await;
        let times = measure(&sender, &body, RATE * seconds).await;
        let at = |share: f64| {
            #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "thousands of calls")]
            let i = (times.len() as f64 * share) as usize;
            times.get(i.min(times.len() - 1)).copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        println!(
            "{name:28} p50 {:6.3} ms   p99 {:6.3} ms   p99.9 {:6.3} ms   max {:6.3} ms",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
}

//! The server over loopback, with TLS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axoneme_webhooks::server::{Certificates, Limits, Server};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::view::small;

const NAME: &str = "axoneme-webhooks.axoneme-system.svc";

/// A certificate that signs itself: PEM, its key, DER.
struct Identity {
    pem: String,
    key: String,
    der: CertificateDer<'static>,
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    Identity { pem: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

struct Rig {
    address: SocketAddr,
    certificates: Certificates,
    identity: Identity,
    cancel: CancellationToken,
    /// Kind, allowed.
    told: Arc<Mutex<Vec<(String, bool)>>>,
    serving: tokio::task::JoinHandle<()>,
}

async fn rig(limits: Limits) -> Rig {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, identity, cancel) = (listener.local_addr().unwrap(), identity(), CancellationToken::new());
    let certificates = Certificates::new(&identity.pem, &identity.key).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let server = Server::new(Arc::new(small()), limits, move |a| {
        heard.lock().unwrap().push((a.kind.to_owned(), a.allowed));
    });
    let serving = tokio::spawn(server.serve(listener, certificates.clone(), cancel.clone()));
    Rig { address, certificates, identity, cancel, told, serving }
}

async fn tls(rig: &Rig, trust: &Identity, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trust.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(rig.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
}

/// An open connection.
enum Caller {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Caller {
    async fn new(rig: &Rig, alpn: &str) -> Self {
        let stream = TokioIo::new(tls(rig, &rig.identity, alpn.as_bytes()).await.unwrap());
        if alpn == "h2" {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            return Self::Two(sender);
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self::One(sender)
    }

    async fn call(&mut self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(path).header("host", NAME);
        let request = request.header("content-type", content_type).body(Full::new(Bytes::from(body))).unwrap();
        let response = match self {
            Self::One(s) => {
                s.ready().await.unwrap();
                s.send_request(request).await.unwrap()
            }
            Self::Two(s) => s.send_request(request).await.unwrap(),
        };
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn review(&mut self, body: Vec<u8>) -> Value {
        let (status, answer) = self.call("POST", "/validate?timeout=2s", "application/json", body).await;
        assert_eq!(status, StatusCode::OK, "{answer:?}");
        serde_json::from_slice(&answer).unwrap()
    }
}

fn review(cidr: &str) -> Vec<u8> {
    let object = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g"},
        "spec": {"externalCIDRs": [cidr]}});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "name": "g", "object": object,
        "kind": {"group": "cilium.io", "version": "v2", "kind": "CiliumCIDRGroup"}, "dryRun": true}});
    review.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_are_answered_by_both_versions_of_http() {
    let rig = rig(Limits::default()).await;
    for alpn in ["h2", "http/1.1"] {
        let mut caller = Caller::new(&rig, alpn).await;
        let good = caller.review(review("192.0.2.0/24")).await;
        assert_eq!(good["response"], json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true}));
        let bad = caller.review(review("192.0.2.0/33")).await;
        assert_eq!(bad["response"]["allowed"], false);
        assert_eq!(bad["response"]["status"]["details"]["causes"][0]["field"], "spec.externalCIDRs[0]");
        assert_eq!(bad["response"]["status"]["code"], 422);
        let understood =
            br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "x"}}"#;
        let unclear = caller.review(understood.to_vec()).await;
        assert_eq!((&unclear["response"]["uid"], &unclear["response"]["status"]["code"]), (&json!("x"), &json!(400)));
    }
    let told = rig.told.lock().unwrap().clone();
    let of = |kind: &str, allowed| told.iter().filter(|t| **t == (kind.to_owned(), allowed)).count();
    assert_eq!((of("CiliumCIDRGroup", true), of("CiliumCIDRGroup", false), of("", false)), (2, 2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_review_is_told_so_and_the_next_one_is_answered() {
    let limits = Limits { body: 4096, bodies: 16 * 1024, ..Limits::default() };
    let rig = rig(limits).await;
    for alpn in ["h2", "http/1.1"] {
        let good = review("192.0.2.0/24");
        for (method, path, content_type, body, status) in [
            ("POST", "/", "application/json", good.clone(), StatusCode::NOT_FOUND),
            ("GET", "/validate", "application/json", Vec::new(), StatusCode::METHOD_NOT_ALLOWED),
            ("POST", "/validate", "text/yaml", good.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ("POST", "/validate", "application/json", vec![b' '; 4097], StatusCode::PAYLOAD_TOO_LARGE),
            ("POST", "/validate", "application/json", good[..50].to_vec(), StatusCode::BAD_REQUEST),
            ("POST", "/validate", "application/json", vec![b'['; 4096], StatusCode::BAD_REQUEST),
            ("POST", "/validate", "application/json", Vec::new(), StatusCode::BAD_REQUEST),
            ("POST", "/validate", "Application/JSON; charset=utf-8", good.clone(), StatusCode::OK),
        ] {
            // a body that was not read ends a connection of HTTP/1.1
            let (found, told) = Caller::new(&rig, alpn).await.call(method, path, content_type, body).await;
            assert_eq!(found, status, "{alpn} {method} {path} {content_type}: {told:?}");
            assert!(!told.is_empty());
        }
    }
}

/// Writes the bytes on a fresh connection and reads what comes until it is closed.
async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = tls(rig, &rig.identity, b"http/1.1").await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // a close without TLS's own goodbye is one too
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("is closed");
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_are_slow_or_stop_are_let_go_and_hold_up_nobody() {
    let patience = Duration::from_millis(300);
    let rig = rig(Limits { body: 4096, bodies: 4096, patience, idle: patience, ..Limits::default() }).await;
    let head = format!("POST /validate HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\n");
    // a head that does not end, a body that does not come, one that is chunked and does not end
    assert_eq!(raw(&rig, &head.as_bytes()[..20]).await, "");
    let truncated = raw(&rig, format!("{head}content-length: 100\r\n\r\n{{\"a\"").as_bytes()).await;
    assert!(truncated.starts_with("HTTP/1.1 408"), "{truncated}");
    let endless = format!("{head}transfer-encoding: chunked\r\n\r\n1000\r\n{}\r\n1\r\nx\r\n", " ".repeat(4096));
    let endless = raw(&rig, endless.as_bytes()).await;
    assert!(endless.starts_with("HTTP/1.1 413"), "{endless}");
    // one that goes away in the middle
    let mut gone = tls(&rig, &rig.identity, b"http/1.1").await.unwrap();
    gone.write_all(format!("{head}content-length: 4096\r\n\r\n{{").as_bytes()).await.unwrap();
    drop(gone);
    // one that never begins its handshake
    let silent = TcpStream::connect(rig.address).await.unwrap();
    let mut caller = Caller::new(&rig, "h2").await;
    assert_eq!(caller.review(review("192.0.2.0/24")).await["response"]["allowed"], true);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_exchanged_while_calls_are_answered() {
    let rig = rig(Limits::default()).await;
    let second = identity();
    let mut open = Caller::new(&rig, "h2").await;
    open.review(review("192.0.2.0/24")).await;
    assert!(tls(&rig, &second, b"h2").await.is_err(), "it is not shown yet");
    assert!(rig.certificates.replace("no certificate", &second.key).is_err());
    assert!(rig.certificates.replace(&second.pem, &rig.identity.key).is_err(), "a key of another");
    Caller::new(&rig, "h2").await.review(review("192.0.2.0/24")).await;
    rig.certificates.replace(&second.pem, &second.key).unwrap();
    assert!(tls(&rig, &second, b"h2").await.is_ok());
    assert!(tls(&rig, &rig.identity, b"h2").await.is_err(), "new connections are shown the new one");
    assert_eq!(open.review(review("192.0.2.0/24")).await["response"]["allowed"], true, "open ones go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_are_held_than_fit_and_the_server_ends_when_told() {
    for limits in [Limits { connections: 2, ..Limits::default() }, Limits { connections_each: 2, ..Limits::default() }]
    {
        two_fit(limits).await;
    }
}

async fn two_fit(limits: Limits) {
    let rig = rig(limits).await;
    let one = tls(&rig, &rig.identity, b"h2").await.unwrap();
    let mut two = Caller::new(&rig, "h2").await;
    assert!(tls(&rig, &rig.identity, b"h2").await.is_err(), "a third is closed");
    two.review(review("192.0.2.0/24")).await;
    drop(one);
    // the place is free when the server has seen it go
    let again = async {
        loop {
            if let Ok(stream) = tls(&rig, &rig.identity, b"http/1.1").await {
                return stream;
            }
            tokio::task::yield_now().await;
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(10), again).await.expect("there is room again");
    rig.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), rig.serving).await.expect("it ends").unwrap();
    drop(again);
}

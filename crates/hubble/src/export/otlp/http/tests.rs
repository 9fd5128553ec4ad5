//! Against a collector that speaks HTTP/1.1, with and without TLS.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use hyper::{server::conn::http1 as server, service::service_fn};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::*;
use crate::export::otlp::{Files, Protocol};
use crate::pb::otlp::{ExportLogsPartialSuccess, LogRecord, ResourceLogs, ScopeLogs};

/// What it was sent, and what it answers; where there is nothing to answer, it takes all.
#[derive(Clone, Default)]
struct Backend {
    seen: Arc<Mutex<Vec<(String, HeaderMap, ExportLogsServiceRequest)>>>,
    answers: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
    connections: Arc<Mutex<usize>>,
}

impl Backend {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let batch = ExportLogsServiceRequest::decode(bytes).unwrap();
        assert_eq!((head.method, head.headers[header::CONTENT_TYPE].clone()), (Method::POST, PROTOBUF));
        self.seen.lock().unwrap().push((head.uri.to_string(), head.headers, batch));
        let taken = || Response::new(Full::from(ExportLogsServiceResponse::default().encode_to_vec()));
        self.answers.lock().unwrap().pop_front().unwrap_or_else(taken)
    }

    async fn serve(&self, tls: Option<TlsAcceptor>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let backend = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *backend.connections.lock().unwrap() += 1;
                let (own, tls) = (backend.clone(), tls.clone());
                let service = service_fn(move |request| {
                    let own = own.clone();
                    async move { Ok::<_, std::convert::Infallible>(own.answer(request).await) }
                });
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            drop(server::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                        }
                        None => drop(server::Builder::new().serve_connection(TokioIo::new(stream), service).await),
                    }
                });
            }
        });
        port
    }

    fn next(&self, status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) {
        let mut answer = Response::new(Full::from(body.into()));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            answer.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
    }
}

fn collector(endpoint: &str, files: Files) -> Collector {
    Collector::new(endpoint, files).unwrap().over(Protocol::Http)
}

fn batch(records: usize) -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { scope: None, log_records: vec![LogRecord::default(); records] }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource: None, scope_logs }] }
}

#[test]
fn logs_go_to_their_own_path_unless_one_is_named() {
    let path = |endpoint| target(endpoint).unwrap().to_string();
    assert_eq!(path("http://collector:4318"), "http://collector:4318/v1/logs");
    assert_eq!(path("http://collector:4318/"), "http://collector:4318/v1/logs");
    assert_eq!(path("https://vendor.example/otlp/v1/logs?tenant=a"), "https://vendor.example/otlp/v1/logs?tenant=a");
}

#[tokio::test]
async fn batches_are_posted_as_protobuf_on_one_connection() {
    let backend = Backend::default();
    let port = backend.serve(None).await;
    let to = collector(&format!("http://127.0.0.1:{port}"), Files::default());
    let mut client = Client::connect(&to).await.unwrap();
    let headers =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-scope-orgid"), HeaderValue::from_static("a"))]);
    for n in 1..4 {
        assert!(matches!(client.export(&to, &batch(n), headers.clone()).await, Ok(0)));
    }
    let partial = ExportLogsPartialSuccess { rejected_log_records: 2, error_message: "too old".into() };
    let answer = ExportLogsServiceResponse { partial_success: Some(partial) };
    backend.next(200, &[], answer.encode_to_vec());
    assert!(matches!(client.export(&to, &batch(5), HeaderMap::new()).await, Ok(2)));
    let seen = backend.seen.lock().unwrap();
    assert_eq!(seen.iter().map(|s| s.2.clone()).collect::<Vec<_>>(), [batch(1), batch(2), batch(3), batch(5)]);
    assert!(seen.iter().all(|s| s.0 == "/v1/logs"), "{:?}", seen.first().map(|s| &s.0));
    let (_, headers, _) = &seen[0];
    assert_eq!(
        (&headers["x-scope-orgid"], &headers[header::HOST]),
        (&"a".parse().unwrap(), &format!("127.0.0.1:{port}").parse().unwrap())
    );
    assert_eq!(*backend.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn what_may_be_tried_again_is_and_a_collector_is_left_alone_as_long_as_it_asks() {
    let backend = Backend::default();
    let port = backend.serve(None).await;
    let to = collector(&format!("http://127.0.0.1:{port}/in/v1/logs"), Files::default());
    let mut client = Client::connect(&to).await.unwrap();
    for code in [429, 502, 503, 504] {
        backend.next(code, &[], "");
        assert!(matches!(client.export(&to, &batch(1), HeaderMap::new()).await, Err(Fault::Again(_))), "{code}");
    }
    backend.next(503, &[("retry-after", "7")], "busy\u{7}");
    let Err(Fault::Later(text, after)) = client.export(&to, &batch(1), HeaderMap::new()).await else {
        panic!("no time")
    };
    assert_eq!((&*text, after), ("503 Service Unavailable: busy", Duration::from_secs(7)));
    backend.next(429, &[("retry-after", "86400")], "");
    let Err(Fault::Later(_, after)) = client.export(&to, &batch(1), HeaderMap::new()).await else { panic!("no time") };
    assert_eq!(after, BACKOFF.1, "no longer than any other failure");
    for code in [400, 401, 404, 413, 500, 301] {
        backend.next(code, &[], "no");
        let Err(Fault::Never(text)) = client.export(&to, &batch(1), HeaderMap::new()).await else { panic!("{code}") };
        assert!(text.starts_with(&code.to_string()) && text.ends_with("no"), "{text}");
    }
    backend.next(200, &[], "<html>");
    assert!(matches!(client.export(&to, &batch(1), HeaderMap::new()).await, Err(Fault::Never(_))), "no collector");
    backend.next(200, &[], vec![0; SAID + 1]);
    assert!(matches!(client.export(&to, &batch(1), HeaderMap::new()).await, Err(Fault::Again(_))), "it talks too much");
}

#[tokio::test]
async fn it_goes_by_tls_and_another_authority_is_refused() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&own, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let secret = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let config = versions.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], secret).unwrap();
    let backend = Backend::default();
    let port = backend.serve(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, pem).unwrap();
    let to = collector(&format!("https://localhost:{port}"), Files { ca: Some(ca.clone()), ..Files::default() });
    let mut client = Client::connect(&to).await.unwrap();
    assert!(matches!(client.export(&to, &batch(1), HeaderMap::new()).await, Ok(0)));
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&ca, stranger.cert.pem()).unwrap();
    let Err(Fault::Again(error)) = Client::connect(&to).await else { panic!("another authority is believed") };
    assert!(error.contains("certificate does not hold") && error.contains("ca.crt"), "{error}");
    std::fs::write(&ca, "nothing").unwrap();
    assert!(matches!(Client::connect(&to).await, Err(Fault::Again(e)) if e.contains("ca.crt")));
}

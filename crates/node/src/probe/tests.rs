//! Probes against made-up runtimes on a clock that is wound by hand, and
//! against listeners on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::HTTPGetAction;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use prost::Message;
use runtime::RuntimeError;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::check::{Handler, Verdict};
use super::grpc::{HealthCheckResponse, ServingStatus};
use super::web::HttpCheck;
use super::*;
use crate::server::fake::{FakeRuntime, ran};

const SECOND: Duration = Duration::from_secs(1);

fn container(spec: Value) -> Container {
    let mut whole = json!({"name": "c", "image": "i", "env": [{"name": "P", "value": "p"}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn target(runtime: Arc<FakeRuntime>, port: u16) -> Target {
    Target {
        pod_ip: Some(Ipv4Addr::LOCALHOST.into()),
        host_network_ip: Ipv4Addr::LOCALHOST.into(),
        ports: vec![("web".into(), port)],
        runtime,
        container_id: "id1".into(),
    }
}

/// Everything that is reported until the probes end or `count` outcomes are there.
async fn outcomes(spec: Value, runtime: Arc<FakeRuntime>, count: usize) -> Vec<(u64, Outcome)> {
    let (sender, mut receiver) = mpsc::channel(8);
    let begun = Instant::now();
    let watching = watch(&container(spec), target(runtime, 1), sender);
    assert!(watching.is_some());
    let mut out = Vec::new();
    while out.len() < count
        && let Some(outcome) = receiver.recv().await
    {
        out.push((begun.elapsed().as_secs(), outcome));
    }
    out
}

fn brief(outcomes: &[(u64, Outcome)]) -> Vec<(u64, Kind, bool, bool)> {
    outcomes
        .iter()
        .map(|(at, o)| (*at, o.kind, o.healthy, o.event))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn readiness_crosses_thresholds_in_both_directions() {
    let runtime = FakeRuntime::running([ran(0), ran(0), ran(1), ran(1), ran(0), ran(0)]);
    let probe = json!({"exec": {"command": ["x"]}, "initialDelaySeconds": 5, "periodSeconds": 2,
        "successThreshold": 2, "failureThreshold": 2});
    let found = outcomes(json!({"readinessProbe": probe}), runtime, 5).await;
    let expected = [
        (7, true, false),
        (9, false, true),
        (11, false, true),
        (11, false, false),
        (15, true, false),
    ];
    assert_eq!(
        brief(&found),
        expected.map(|(at, healthy, event)| (at, Kind::Readiness, healthy, event))
    );
    assert_eq!(found[1].1.message, "Readiness probe failed: outerr");
    assert_eq!(found[3].1.message, "outerr");
    assert_eq!((found[0].1.container.as_str(), found[0].1.id.as_str()), ("c", "id1"));
}

#[tokio::test(start_paused = true)]
async fn liveness_fails_once_and_then_rests() {
    let runtime = FakeRuntime::running([ran(0), ran(3)]);
    let probe = json!({"exec": {"command": ["x"]}});
    let found = outcomes(json!({"livenessProbe": probe}), runtime, 99).await;
    let expected = [(10, true), (20, true), (30, true), (30, false)];
    assert_eq!(
        brief(&found),
        expected.map(|(at, event)| (at, Kind::Liveness, false, event))
    );
}

#[tokio::test(start_paused = true)]
async fn the_others_wait_for_startup() {
    let runtime = FakeRuntime::running([ran(1), ran(1), ran(0), ran(0)]);
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1});
    let spec = json!({"startupProbe": {"exec": {"command": ["x"]}, "periodSeconds": 7, "failureThreshold": 5},
        "readinessProbe": probe, "livenessProbe": probe});
    let found = outcomes(spec, runtime, 4).await;
    let expected = [
        (0, Kind::Startup, false, true),
        (7, Kind::Startup, false, true),
        (14, Kind::Startup, true, false),
        (14, Kind::Readiness, true, false),
    ];
    assert_eq!(brief(&found), expected);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_carried_out_proves_nothing() {
    let broken = || Err(RuntimeError::Unavailable("gone".into()));
    let runtime = FakeRuntime::running([broken(), broken(), broken(), ran(0)]);
    let probe = json!({"exec": {"command": ["x"]}, "failureThreshold": 1});
    let found = outcomes(json!({"readinessProbe": probe}), runtime, 2).await;
    assert_eq!(
        found[0].1.message,
        "Readiness probe errored and resulted in unknown state: runtime unavailable: gone"
    );
    assert_eq!(brief(&found)[1], (10, Kind::Readiness, true, false));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_fails() {
    let runtime = FakeRuntime::running([Err(RuntimeError::Timeout("exec".into()))]);
    let probe = json!({"exec": {"command": ["sleep", "$(P)"]}, "timeoutSeconds": 2});
    let found = outcomes(json!({"livenessProbe": probe}), runtime, 1).await;
    assert_eq!(
        found[0].1.message,
        "Liveness probe failed: command timed out: \"sleep p\" timed out after 2s"
    );
}

#[tokio::test(start_paused = true)]
async fn probes_end_when_they_are_dropped() {
    let (sender, mut receiver) = mpsc::channel(8);
    let spec = container(json!({"livenessProbe": {"exec": {"command": ["x"]}}}));
    let watching = watch(&spec, target(FakeRuntime::running([]), 1), sender.clone());
    drop((watching, sender));
    assert_eq!(receiver.recv().await, None);
    let (sender, _) = mpsc::channel(8);
    assert!(watch(&container(json!({})), target(FakeRuntime::running([]), 1), sender).is_none());
}

/// Answers one connection after the other with the same bytes; gives what it was asked.
async fn answering(answer: &'static str) -> io::Result<(u16, mpsc::UnboundedReceiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((port, receiver))
}

fn http(port: u16, rest: Value) -> HttpCheck {
    let mut action = json!({"port": port, "path": "/healthz"});
    for (key, value) in rest.as_object().unwrap() {
        action[key] = value.clone();
    }
    let action: HTTPGetAction = serde_json::from_value(action).unwrap();
    HttpCheck::new(&action, "127.0.0.1".into(), port)
}

#[tokio::test]
async fn http_looks_at_the_status() {
    let (port, mut asked) = answering("HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let headers = json!({"httpHeaders": [{"name": "X-A", "value": "b"}, {"name": "Host", "value": "me"}]});
    assert_eq!(http(port, headers).run(SECOND).await, Verdict::Success);
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("GET /healthz HTTP/1.1\r\n"), "{head}");
    for line in [
        "x-a: b",
        "host: me",
        "user-agent: kube-probe/1.36",
        "accept: */*",
        "connection: close",
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }

    let (port, _asked) = answering("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno")
        .await
        .unwrap();
    let failed = Verdict::Failure("HTTP probe failed with statuscode: 500".into());
    assert_eq!(http(port, json!({})).run(SECOND).await, failed);

    let (port, _asked) = answering("HTTP/1.1 302 Away\r\nlocation: http://example.org/\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(http(port, json!({})).run(SECOND).await, Verdict::Success);

    let (port, _asked) = answering("HTTP/1.1 302 Here\r\nlocation: /\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let Verdict::Failure(why) = http(port, json!({})).run(SECOND).await else {
        panic!("an endless redirect is no success");
    };
    assert!(why.ends_with("stopped after 10 redirects"), "{why}");

    let (port, _asked) = answering("").await.unwrap();
    let failed = Verdict::Failure(format!("Get \"http://127.0.0.1:{port}/healthz\": EOF"));
    assert_eq!(http(port, json!({})).run(SECOND).await, failed);
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let port = closed_port().await;
    let target = target(FakeRuntime::running([]), port);
    let spec = container(json!({"readinessProbe": {"tcpSocket": {"port": "web"}}}));
    let handler = Handler::of(spec.readiness_probe.as_ref().unwrap(), &spec, &target);
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(handler.check(&target, SECOND).await, Verdict::Failure(refused.clone()));
    let failed = Verdict::Failure(format!("Get \"http://127.0.0.1:{port}/healthz\": {refused}"));
    assert_eq!(http(port, json!({})).run(SECOND).await, failed);

    let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    assert_eq!(handler.check(&target, SECOND).await, Verdict::Success);
}

#[tokio::test]
async fn a_silent_server_is_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let late = Verdict::Failure(format!(
        "Get \"http://127.0.0.1:{port}/healthz\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    ));
    assert_eq!(http(port, json!({})).run(Duration::from_millis(50)).await, late);
}

#[tokio::test]
async fn unknown_ports_are_errors() {
    let target = target(FakeRuntime::running([]), 80);
    for (port, why) in [
        (IntOrString::String("x".into()), "couldn't find port: x"),
        (IntOrString::Int(0), "invalid port number: 0"),
    ] {
        let spec = container(json!({"readinessProbe": {"httpGet": {"port": port}}}));
        let handler = Handler::of(spec.readiness_probe.as_ref().unwrap(), &spec, &target);
        assert_eq!(handler.check(&target, SECOND).await, Verdict::Error(why.into()));
    }
}

#[tokio::test]
async fn certificates_are_not_verified() {
    let dir = tempfile::tempdir().unwrap();
    let ca = pki::Authority::load_or_create(dir.path(), "ca").unwrap();
    let pair = ca
        .issue(&pki::CertSpec::server("elsewhere", vec!["elsewhere".into()]))
        .unwrap();
    let identity = pki::ServerIdentity::new(&pair).unwrap();
    let config = pki::server_config(identity, ca.certificate(), false, &[b"http/1.1"]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(stream).await.unwrap();
        let mut head = [0; 16];
        let _ = tls.read(&mut head).await;
        let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let _ = tls.shutdown().await;
    });
    let check = http(port, json!({"scheme": "HTTPS"}));
    assert_eq!(check.run(5 * SECOND).await, Verdict::Success);
}

/// A gRPC server that answers every call with a status, or has no such service.
async fn health(status: Option<ServingStatus>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let response = http::Response::builder().header("content-type", "application/grpc");
                let Some(status) = status else {
                    let refused = response
                        .header("grpc-status", "12")
                        .header("grpc-message", "no such thing");
                    return refused.body(http_body_util::Either::Left(Full::default()));
                };
                let message = HealthCheckResponse { status: status.into() }.encode_to_vec();
                let mut framed = vec![0, 0, 0, 0, message.len() as u8];
                framed.extend(message);
                let trailers = http::HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    http::HeaderValue::from_static("0"),
                )]);
                let frames = [Frame::data(bytes::Bytes::from(framed)), Frame::trailers(trailers)];
                let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
                response.body(http_body_util::Either::Right(body))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let ask = |address, service| grpc::check(address, service, 5 * SECOND);
    let serving = health(Some(ServingStatus::Serving)).await;
    assert_eq!(ask(serving, "").await, Verdict::Success);
    let not = health(Some(ServingStatus::NotServing)).await;
    let unhealthy = Verdict::Failure("service unhealthy (responded with \"NOT_SERVING\")".into());
    assert_eq!(ask(not, "x").await, unhealthy);
    let none = health(None).await;
    assert_eq!(
        ask(none, "").await,
        Verdict::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): no such thing"
                .into()
        )
    );
    let closed = SocketAddr::from(([127, 0, 0, 1], closed_port().await));
    let Verdict::Failure(why) = ask(closed, "").await else {
        panic!("a closed port is no success");
    };
    assert!(why.starts_with("timeout: failed to connect service"), "{why}");
}

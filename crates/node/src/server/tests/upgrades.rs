//! Streams: passed to the streaming server of a runtime, or to raw bytes.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use runtime::{RuntimeError, StreamRequest, StreamTarget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A streaming server that switches protocols and then sends back what it gets. Gives its
/// URL and the heads of the requests.
async fn streaming_server(answer: &'static str) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let _ = sender.send(String::from_utf8_lossy(&head).to_lowercase());
            let _ = stream.write_all(answer.as_bytes()).await;
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    (format!("http://{address}/exec/Token?a=b"), receiver)
}

const SPDY: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

fn leads_to(stand: &Stand, target: StreamTarget) {
    *lock(&stand.runtime.streams) = VecDeque::from([target]);
}

/// A stream that sends back what it gets.
fn echo() -> StreamTarget {
    let (near, far) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(far);
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    StreamTarget::Raw(Box::new(near))
}

async fn web_socket(response: Response<Incoming>) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
    assert_eq!(
        header(response.headers(), "sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

fn web_socket_headers(protocols: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-protocol", protocols),
    ]
}

#[tokio::test]
async fn exec_over_spdy_passes_through() {
    let stand = running().await;
    let (url, mut heads) = streaming_server(SPDY).await;
    leads_to(&stand, StreamTarget::Url(url));
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ];
    let path = "/exec/ns/p/c?command=sh&command=-c&command=a%20b&output=1&error=1&tty=0";
    let response = stand.ask(Method::POST, path, &headers).await;
    assert_eq!(response.status(), 101);
    assert_eq!(header(response.headers(), "upgrade"), "SPDY/3.1");
    assert_eq!(
        header(response.headers(), "x-stream-protocol-version"),
        "v4.channel.k8s.io"
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");

    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("post /exec/token?a=b http/1.1\r\n"), "{head}");
    assert!(head.contains("upgrade: spdy/3.1") && head.contains("x-stream-protocol-version: v4.channel.k8s.io"));
    assert!(!head.contains("host: n1"), "{head}");
    let asked = lock(&stand.runtime.asked).pop();
    let Some(StreamRequest::Exec {
        container_id,
        command,
        streams,
    }) = asked
    else {
        panic!("no exec was asked for");
    };
    assert_eq!(
        (container_id.as_str(), command),
        ("c-0", vec!["sh".into(), "-c".into(), "a b".to_owned()])
    );
    assert!(streams.stdout && streams.stderr && !streams.stdin && !streams.tty);
}

#[tokio::test]
async fn web_sockets_that_the_runtime_does_not_speak_are_refused() {
    let stand = running().await;
    let path = "/exec/ns/p/c?command=sh&output=1";
    let refused = stand
        .ask(Method::GET, path, &web_socket_headers("v6.channel.k8s.io"))
        .await;
    let (status, body) = whole(refused).await;
    assert_eq!(status, 400);
    assert!(body.starts_with("unable to upgrade"), "{body}");
    assert!(lock(&stand.runtime.asked).is_empty());

    let (url, mut heads) =
        streaming_server("HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    leads_to(&stand, StreamTarget::Url(url));
    let both = web_socket_headers("v6.channel.k8s.io, v4.channel.k8s.io");
    assert_eq!(stand.ask(Method::GET, path, &both).await.status(), 101);
    assert!(heads.recv().await.unwrap().contains("v4.channel.k8s.io"));
}

#[tokio::test]
async fn the_newest_channels_become_streams_of_spdy() {
    let stand = running().await;
    let answer = "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    let (url, mut heads) = streaming_server(answer).await;
    leads_to(&stand, StreamTarget::Url(url));
    let newest = web_socket_headers("v5.channel.k8s.io, v4.channel.k8s.io");
    let accepted = stand
        .ask(Method::GET, "/exec/ns/p/c?command=sh&output=1", &newest)
        .await;
    assert_eq!(accepted.status(), 101);
    assert_eq!(accepted.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let head = heads.recv().await.unwrap();
    assert!(
        head.starts_with("post /exec/token") && head.contains("upgrade: spdy/3.1"),
        "{head}"
    );
}

#[tokio::test]
async fn a_runtimes_refusal_is_passed_on() {
    let stand = running().await;
    let (url, _heads) = streaming_server("HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnope").await;
    leads_to(&stand, StreamTarget::Url(url));
    let headers = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let refused = stand.ask(Method::POST, "/attach/ns/p/c?output=1", &headers).await;
    assert_eq!(whole(refused).await, (403, "nope".into()));
    let wrong = [
        (
            "/attach/ns/p/c",
            "you must specify at least 1 of stdin, stdout, stderr\n",
            400,
        ),
        ("/exec/ns/p/c?input=1", "you must specify a command\n", 400),
        ("/exec/ns/p/x?output=1&command=a", "container not found (\"x\")\n", 404),
        ("/exec/ns/x/x?output=1&command=a", "pod does not exist\n", 404),
        ("/portForward/ns/p?ports=0", "invalid port \"0\"\n", 400),
    ];
    for (path, message, status) in wrong {
        let refused = stand.ask(Method::POST, path, &headers).await;
        assert_eq!(whole(refused).await, (status, message.into()), "{path}");
    }
    let message = "unable to upgrade: missing upgrade headers in request\n";
    assert_eq!(stand.get("/portForward/ns/p").await, (400, message.into()));
}

#[tokio::test]
async fn port_forward_is_tunnelled() {
    let stand = running().await;
    let (url, mut heads) = streaming_server(SPDY).await;
    leads_to(&stand, StreamTarget::Url(url));
    let headers = web_socket_headers("SPDY/3.1+portforward.k8s.io");
    let response = stand.ask(Method::GET, "/portForward/ns/p", &headers).await;
    assert_eq!(response.status(), 101);
    assert_eq!(
        header(response.headers(), "sec-websocket-protocol"),
        "SPDY/3.1+portforward.k8s.io"
    );
    let head = heads.recv().await.unwrap();
    assert!(
        head.starts_with("post ") && head.contains("upgrade: spdy/3.1"),
        "{head}"
    );
    assert!(head.contains("x-stream-protocol-version: portforward.k8s.io"), "{head}");
    assert!(!head.contains("websocket"), "{head}");
    let mut socket = web_socket(response).await;
    socket.send(Message::binary(&b"frames"[..])).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), "frames");
}

/// Remembers what it was told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Told {
    fn note(&self, what: &str, id: &str) -> Result<(), RuntimeError> {
        lock(&self.0).push(format!("{what} {id}"));
        Ok(())
    }
}

#[async_trait]
impl MachineControl for Told {
    async fn pause(&self, id: &str) -> Result<(), RuntimeError> {
        self.note("pause", id)
    }
    async fn unpause(&self, id: &str) -> Result<(), RuntimeError> {
        self.note("unpause", id)
    }
    async fn reset(&self, id: &str) -> Result<(), RuntimeError> {
        self.note("reset", id)
    }
    async fn soft_reboot(&self, _: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::Invalid {
            reason: "AgentNotConnected".into(),
            message: "VMI does not have guest agent connected".into(),
        })
    }
    async fn screenshot(&self, _: &str) -> Result<Vec<u8>, RuntimeError> {
        Ok(b"picture".to_vec())
    }
    async fn guest_info(&self, id: &str, what: &str) -> Result<Value, RuntimeError> {
        self.note(what, id)?;
        Ok(json!({"hostname": "guest"}))
    }
}

#[tokio::test]
async fn machines_have_consoles_ports_and_buttons() {
    let runtime = FakeRuntime::default();
    *lock(&runtime.sandbox) = Some(sandbox(
        "virt-launcher-db-1",
        vec![attempt("compute", 0, ContainerState::Running)],
    ));
    let labels = json!({"kubevirt.io": "virt-launcher", "vm.kubevirt.io/name": "db"});
    let told = Arc::new(Told::default());
    let machines: Arc<dyn MachineControl> = told.clone();
    let stand = stand(vec![pod("virt-launcher-db-1", labels)], runtime, Some(machines)).await;

    for (path, channel) in [
        ("console", "Console"),
        ("vnc", "Vnc"),
        ("usbredir", "UsbRedirection"),
        ("portforward/53/udp", "Udp(53)"),
        ("portforward/5432/tcp", "5432"),
    ] {
        leads_to(&stand, echo());
        let path = format!("/machines/ns/db/{path}");
        let response = stand
            .ask(Method::GET, &path, &web_socket_headers("plain.kubevirt.io"))
            .await;
        assert_eq!(response.status(), 101, "{path}");
        assert_eq!(
            header(response.headers(), "sec-websocket-protocol"),
            "plain.kubevirt.io"
        );
        let mut socket = web_socket(response).await;
        socket.send(Message::binary(&b"\x01\xff"[..])).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_data(), &b"\x01\xff"[..]);
        let asked = lock(&stand.runtime.asked).pop();
        match asked {
            Some(StreamRequest::Machine {
                container_id,
                channel: of,
            }) => {
                assert_eq!(
                    (container_id.as_str(), format!("{of:?}").as_str()),
                    ("compute-0", channel)
                );
            }
            Some(StreamRequest::PortForward { sandbox_id, ports }) => {
                assert_eq!((sandbox_id.as_str(), ports), ("sandbox", vec![5432]));
            }
            other => panic!("{other:?}"),
        }
    }

    for action in ["pause", "unpause", "reset"] {
        let done = stand.ask(Method::PUT, &format!("/machines/ns/db/{action}"), &[]).await;
        assert_eq!(done.status(), 200, "{action}");
    }
    assert_eq!(
        stand.get("/machines/ns/db/guestosinfo").await,
        (200, r#"{"hostname":"guest"}"#.into())
    );
    let expected = [
        "pause compute-0",
        "unpause compute-0",
        "reset compute-0",
        "guestosinfo compute-0",
    ];
    assert_eq!(*lock(&told.0), expected);
    let refused = whole(stand.ask(Method::PUT, "/machines/ns/db/softreboot", &[]).await).await;
    assert_eq!(refused.0, 409);
    assert!(refused.1.contains("does not have guest agent connected"));
    // Nothing says when it goes on; and what it cannot do at all.
    for (action, code) in [("freeze", 400), ("melt", 501)] {
        let path = format!("/machines/ns/db/{action}");
        assert_eq!(stand.ask(Method::PUT, &path, &[]).await.status(), code, "{action}");
    }
    let picture = stand.ask(Method::GET, "/machines/ns/db/vnc/screenshot", &[]).await;
    assert_eq!(
        (picture.status().as_u16(), header(picture.headers(), "content-type")),
        (200, "image/png")
    );
    assert_eq!(
        stand.refusal("/machines/ns/other/userlist").await,
        (409, "VMI is not running".into())
    );
}

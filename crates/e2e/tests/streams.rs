//! exec, attach, cp, run -i and port-forward, over WebSocket and over SPDY.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use testkit::{Kubectl, Server, until};

use crate::{POD, with_node};

/// A pod that says what it is told, with a page.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: allmend.local/busybox:1
    stdin: true
    command: [sh, -c, 'while read line; do echo "heard $line"; done; sleep 3600']
  - name: page
    image: allmend.local/busybox:1
    command: [sh, -c, 'mkdir /www; echo a page > /www/index.html; exec httpd -f -p 8080 -h /www']
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"#;

/// What kubectl may speak, and the environment that makes it.
const WAYS: [(&str, &str); 2] = [("websocket", "true"), ("spdy", "false")];

/// kubectl in one of the ways.
fn command(kubectl: &Kubectl, on: &str, arguments: &[&str]) -> Command {
    let mut command = kubectl.command(arguments);
    command
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", on)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", on)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(kubectl: &Kubectl, on: &str, arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = command(kubectl, on, arguments).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let input = input.to_owned();
    // Large input and large output at the same time.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(output)
}

/// A child that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pods() -> Result<Server> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(PODS)?;
    kubectl.wait(&["--for=condition=Ready", "pod/talker"], POD)?;
    Ok(server)
}

#[test]
fn commands_run_over_both_protocols() -> Result<()> {
    let server = pods()?;
    let kubectl = server.kubectl();
    // Neither a whole number of frames nor of windows.
    let large: Vec<u8> = (0..3_000_017_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (way, on) in WAYS {
        let exec = |flags: &[&str], shell: &str, input: &[u8]| {
            let all = [&["exec", "talker", "-c", "page"], flags, &["--", "sh", "-c", shell]].concat();
            run(&kubectl, on, &all, input)
        };
        let both = exec(&[], "echo out; echo err >&2", b"")?;
        ensure!(both.status.success() && both.stdout == b"out\n", "{way}: {both:?}");
        ensure!(both.stderr == b"err\n", "{way}: {both:?}");
        let failed = exec(&[], "exit 7", b"")?;
        ensure!(failed.status.code() == Some(7), "{way}: {failed:?}");
        // The end of standard input reaches the command.
        let counted = exec(&["-i"], "wc -c", &large)?;
        let count = String::from_utf8_lossy(&counted.stdout);
        ensure!(count.trim() == large.len().to_string(), "{way}: {count}");
        let back = exec(&["-i"], "cat", &large)?;
        ensure!(back.stdout == large, "{way}: {} bytes came back", back.stdout.len());
        // A command that does not read its input is not waited for with it.
        let early = exec(&["-i"], "echo done", &large[..30_000])?;
        ensure!(early.stdout == b"done\n", "{way}: {early:?}");

        let missing = run(&kubectl, on, &["exec", "talker", "-c", "page", "--", "nonesuch"], b"")?;
        let said = String::from_utf8_lossy(&missing.stderr);
        ensure!(!missing.status.success() && said.contains("nonesuch"), "{way}: {said}");

        let spoken = run(
            &kubectl,
            on,
            &["exec", "-v=8", "talker", "-c", "page", "--", "true"],
            b"",
        )?;
        let spoken = String::from_utf8_lossy(&spoken.stderr).to_lowercase();
        let switched = match way {
            "websocket" => "sec-websocket-protocol: v5.channel.k8s.io",
            _ => "upgrade: spdy/3.1",
        };
        ensure!(spoken.contains(switched), "{way}: {spoken}");
        ensure!(!spoken.contains("fallback"), "{way}: {spoken}");
    }
    Ok(())
}

#[test]
fn files_are_copied_there_and_back() -> Result<()> {
    let server = pods()?;
    let kubectl = server.kubectl();
    let directory = tempfile::tempdir()?;
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    let content: Vec<u8> = (0..1_500_000_u32)
        .map(|n| (n.wrapping_mul(2_246_822_519) >> 24) as u8)
        .collect();
    std::fs::write(&from, &content)?;
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    kubectl.ok(&["cp", "-c", "page", &from, "talker:/tmp/copy"])?;
    kubectl.ok(&["cp", "-c", "page", "talker:/tmp/copy", &to])?;
    ensure!(std::fs::read(&*to)? == content);
    Ok(())
}

#[test]
fn one_may_join_the_main_process() -> Result<()> {
    let server = pods()?;
    let kubectl = server.kubectl();
    for (way, on) in WAYS {
        let mut attach = Guard(command(&kubectl, on, &["attach", "-i", "talker", "-c", "main"]).spawn()?);
        let mut stdin = attach.0.stdin.take().context("stdin")?;
        let mut lines = BufReader::new(attach.0.stdout.take().context("stdout")?).lines();
        writeln!(stdin, "{way}")?;
        let heard = lines.find(|l| l.as_ref().map_or(true, |l| l.contains("heard")));
        ensure!(heard.context("nothing heard")?? == format!("heard {way}"));

        let name = format!("guest-{way}");
        let image = "--image=allmend.local/busybox:1";
        let flags = [
            "run",
            &name,
            "-i",
            "--rm",
            "--quiet",
            "--restart=Never",
            image,
            "--",
            "cat",
        ];
        let said = run(&kubectl, on, &flags, b"through and through\n")?;
        let heard = String::from_utf8_lossy(&said.stdout);
        ensure!(
            said.status.success() && heard.contains("through and through"),
            "{way}: {said:?}"
        );
    }
    Ok(())
}

#[test]
fn ports_are_reached_from_afar() -> Result<()> {
    let server = pods()?;
    let kubectl = server.kubectl();
    for (way, on) in WAYS {
        let mut forward = Guard(command(&kubectl, on, &["port-forward", "pod/talker", ":8080"]).spawn()?);
        // Kept open: kubectl says there whom it serves.
        let mut said = BufReader::new(forward.0.stdout.take().context("stdout")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let port = line.split("127.0.0.1:").nth(1).and_then(|r| r.split(' ').next());
        let port: u16 = port
            .context("port")?
            .parse()
            .with_context(|| format!("{way}: {line}"))?;
        // One after the other over one connection to the server.
        for _ in 0..3 {
            let page = until("the page", POD, || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
                let request = "GET / HTTP/1.0\r\n\r\n";
                stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
                let mut page = String::new();
                stream.read_to_string(&mut page).map_err(|e| e.to_string())?;
                if page.is_empty() {
                    Err("nothing".to_owned())
                } else {
                    Ok(page)
                }
            })?;
            ensure!(page.contains("a page"), "{way}: {page}");
        }
    }
    Ok(())
}

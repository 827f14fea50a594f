//! Serves the API alone, for benchmarks and for trying out kubectl:
//! `serve DIRECTORY PORT TOKEN [nosync]`.

use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{ApiServer, Config, User};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(port), Some(token)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: serve DIRECTORY PORT TOKEN [nosync]".into());
    };
    let dir = PathBuf::from(dir);
    let port: u16 = port.parse()?;
    let mut options = store::embedded::Options::new(dir.join("db")).stamp(apiserver::stamp());
    options.sync = args.next().as_deref() != Some("nosync");
    let store = Arc::new(store::Embedded::open(options)?);
    let tls = dir.join("tls");
    let servers = pki::Authority::load_or_create(&tls, "server-ca")?;
    let clients = pki::Authority::load_or_create(&tls, "client-ca")?;
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let pair = servers.issue(&pki::CertSpec::server("serve", names))?;
    let identity = pki::ServerIdentity::new(&pair)?;
    let tls_config = pki::server_config(identity, clients.certificate(), false, &[b"h2", b"http/1.1"])?;
    let config = Config {
        tokens: vec![(token.clone(), User::master("admin"))],
        signer: Some(Arc::new(pki::SigningKeys::load_or_create(&tls)?)),
        root_ca: servers.certificate().to_owned(),
        ..Config::default()
    };
    let server = ApiServer::open(config, store).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("serving https://127.0.0.1:{port}");
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.cancel();
        }
    });
    server.serve(listener, Arc::new(tls_config), stop).await?;
    server.shut_down();
    Ok(())
}

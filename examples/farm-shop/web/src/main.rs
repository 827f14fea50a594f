//! The web front of the farm shop: shows the stock that a PostgreSQL in a
//! virtual machine keeps, and takes orders.
//!
//! An example, not a product: it must stay small enough to be read in a minute.

mod page;
mod stock;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use stock::Stock;

const PORT: u16 = 8080;
/// Largest order form.
const FORM_MAX: usize = 4096;

#[tokio::main]
async fn main() -> Result<()> {
    let stock = Arc::new(Stock::from_environment());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .await
        .context("listen")?;
    println!("farm shop {} listens on port {PORT}", page::version());
    let mut terminate = signal(SignalKind::terminate())?;
    let (server, open) = (Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.context("accept")?.0,
            _ = terminate.recv() => break,
        };
        let stock = stock.clone();
        let service = service_fn(move |request| {
            let stock = stock.clone();
            async move { Ok::<_, Infallible>(answer(&stock, request).await) }
        });
        let connection = open.watch(server.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            // A browser that goes away is no error of ours.
            let _ = connection.await;
        });
    }
    drop(listener);
    println!("asked to stop: finishing what was begun");
    let _ = tokio::time::timeout(Duration::from_secs(20), open.shutdown()).await;
    Ok(())
}

async fn answer(stock: &Stock, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => html(page::shop(&stock.items().await)),
        (&Method::GET, "/stock") => match stock.items().await.fresh() {
            Ok(items) => json(StatusCode::OK, serde_json::json!(items)),
            Err(why) => json(StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({"error": why})),
        },
        (&Method::GET, "/healthz" | "/readyz") => text(StatusCode::OK, "ok\n"),
        (&Method::POST, "/order") => order(stock, request).await,
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

async fn order(stock: &Stock, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Ok(form) = Limited::new(request.into_body(), FORM_MAX).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n");
    };
    let form = form.to_bytes();
    let name = form.strip_prefix(b"name=").unwrap_or_default();
    let name = String::from_utf8_lossy(name).replace('+', " ");
    match stock.take_one(&name).await {
        Ok(true) => with_header(text(StatusCode::SEE_OTHER, ""), LOCATION, "/"),
        Ok(false) => text(StatusCode::CONFLICT, "sold out\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
}

fn html(body: String) -> Response<Full<Bytes>> {
    with_header(text(StatusCode::OK, &body), CONTENT_TYPE, "text/html; charset=utf-8")
}

fn json(status: StatusCode, value: serde_json::Value) -> Response<Full<Bytes>> {
    with_header(text(status, &value.to_string()), CONTENT_TYPE, "application/json")
}

fn with_header(
    mut response: Response<Full<Bytes>>,
    name: hyper::header::HeaderName,
    value: &'static str,
) -> Response<Full<Bytes>> {
    response
        .headers_mut()
        .insert(name, hyper::header::HeaderValue::from_static(value));
    response
}

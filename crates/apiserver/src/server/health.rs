//! Paths that are no resources: health, version, metrics, discovery, OpenAPI, OIDC.

use http::Response;
use http::header::ACCEPT;
use meta::Status;
use serde_json::{Value, json};

use super::dispatch::{Admitted, header};
use super::{Body, Frontend, respond};
use crate::identity::User;

/// What is looked at; each is a path below `/readyz` too.
const CHECKS: [&str; 4] = ["ping", "store", "cache", "shutdown"];

impl Frontend {
    /// A request on no resource.
    pub(super) async fn other(&self, admitted: Admitted, path: &str) -> Result<Response<Body>, Status> {
        let method = admitted.request.method();
        if !matches!(*method, http::Method::GET | http::Method::HEAD) {
            return Err(Status::method_not_allowed("", "", method.as_str()));
        }
        let path = path.trim_end_matches('/');
        let base = path.split('/').nth(1).unwrap_or_default();
        match base {
            "healthz" | "livez" | "readyz" => self.health(&admitted, path).await,
            "version" if path == "/version" => Ok(respond::json(200, &self.version())),
            // Whoever joins compares it with the fingerprint in the token.
            "cacerts" if path == "/cacerts" && !self.core.config.root_ca.is_empty() => {
                Ok(respond::text(200, self.core.config.root_ca.clone()))
            }
            "metrics" if path == "/metrics" => Ok(self.metrics_page()),
            ".well-known" if path == "/.well-known/openid-configuration" => Ok(respond::json(200, &self.oidc())),
            "openid" if path == "/openid/v1/jwks" => match &self.core.config.signer {
                Some(signer) => Ok(respond::json(200, &signer.jwks())),
                None => Err(Status::no_such_path()),
            },
            "" | "api" | "apis" | "openapi" => self.discovery.answer(&self.core, path, &admitted),
            _ => Err(Status::no_such_path()),
        }
    }

    async fn health(&self, admitted: &Admitted, path: &str) -> Result<Response<Body>, Status> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (page, one) = (parts.next().unwrap_or_default(), parts.next());
        let mut all_fine = true;
        let mut lines = String::new();
        // Together: a store that is away lets both of them wait.
        let (store, cache) = tokio::join!(self.core.store.revision(), self.core.read_barrier());
        // As upstream, strangers are not told why.
        let told = admitted.user.name != User::anonymous().name;
        for check in CHECKS {
            if one.is_some_and(|o| o != check) || (page != "readyz" && check == "shutdown") {
                continue;
            }
            let wrong = match check {
                "store" => store.as_ref().err().map(ToString::to_string),
                "cache" => cache.as_ref().err().map(|status| status.message.clone()),
                "shutdown" => self.stop.is_cancelled().then(|| "the server is stopping".to_owned()),
                _ => None,
            };
            all_fine &= wrong.is_none();
            lines.push_str(&match wrong {
                None => format!("[+]{check} ok\n"),
                Some(why) if told => format!("[-]{check} failed: {why}\n"),
                Some(_) => format!("[-]{check} failed: reason withheld\n"),
            });
        }
        if lines.is_empty() {
            return Err(Status::no_such_path());
        }
        let verbose = admitted
            .request
            .uri()
            .query()
            .is_some_and(|q| q.starts_with("verbose") || q.contains("&verbose"));
        Ok(match (all_fine, verbose) {
            (true, false) => respond::text(200, "ok"),
            (true, true) => respond::text(200, format!("{lines}{page} check passed\n")),
            (false, _) => respond::text(500, format!("{lines}{page} check failed\n")),
        })
    }

    fn version(&self) -> Value {
        json!({
            "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
            "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
            "gitVersion": self.core.config.git_version, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
            "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
        })
    }

    fn oidc(&self) -> Value {
        let issuer = &self.core.config.issuer;
        json!({
            "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    fn metrics_page(&self) -> Response<Body> {
        let mut gauges = vec![("apiserver_storage_revision".to_owned(), self.core.revision())];
        for r in self.core.catalog.stored() {
            let name = r.kind.gvr().group_resource();
            let (watchers, cut_off) = r.cache.watchers();
            gauges.push((
                format!("apiserver_storage_objects{{resource=\"{name}\"}}"),
                r.cache.len() as u64,
            ));
            if watchers > 0 {
                gauges.push((
                    format!("apiserver_registered_watchers{{resource=\"{name}\"}}"),
                    watchers as u64,
                ));
            }
            if cut_off > 0 {
                gauges.push((
                    format!("apiserver_terminated_watchers_total{{resource=\"{name}\"}}"),
                    cut_off,
                ));
            }
        }
        let busy = self
            .core
            .config
            .max_in_flight
            .saturating_sub(self.in_flight.available_permits());
        gauges.push(("apiserver_current_inflight_requests".into(), busy as u64));
        respond::text(200, self.metrics.text(&gauges))
    }
}

/// What the client accepts, for discovery.
pub(crate) fn accept(admitted: &Admitted) -> &str {
    header(admitted.request.headers(), ACCEPT)
}

//! Prometheus' text format. Must not know what is counted.

use std::fmt::Write;

use http::{Response, StatusCode};

use crate::server::answer::{Body, typed};

/// The media type of the format.
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Families and samples, one after the other.
#[derive(Default)]
pub(super) struct Text {
    pub(super) text: String,
    family: &'static str,
}

impl Text {
    /// Begins a family of the upstream's stable names.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.plain(name, kind, &format!("[STABLE] {help}"));
    }

    /// Begins a family.
    pub(super) fn plain(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample; `at` in nanoseconds, 0 for none.
    pub(super) fn sample(&mut self, labels: &str, value: f64, at: i64) {
        let _ = write!(self.text, "{}{labels} {value}", self.family);
        if at > 0 {
            let _ = write!(self.text, " {}", at / 1_000_000);
        }
        self.text.push('\n');
    }
}

/// `/metrics/probes`: probes are not counted, but whoever scrapes it expects an answer.
pub(crate) fn probe_metrics() -> Response<Body> {
    typed(StatusCode::OK, PROMETHEUS, Vec::new())
}

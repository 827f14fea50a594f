//! The probes of a pod's containers: begun, ended, and what they found.
//!
//! Must not kill anything: what is unhealthy is remembered, the plan acts.

use k8s_openapi::api::core::v1::Container;
use reconcile::EventKind;
use runtime::ContainerState;

use super::Worker;
use crate::plan::Busy;
use crate::pods;
use crate::probe::{self, Kind as Probe, Outcome, Target};

impl Worker {
    /// Containers that run get their probes; those that do not lose them.
    pub(super) fn watch_containers(&mut self) {
        let current: Vec<(String, String)> = self
            .sandboxes
            .iter()
            .flat_map(|s| &s.containers)
            .filter(|c| c.state == ContainerState::Running)
            .map(|c| (c.name.clone(), c.id.clone()))
            .collect();
        self.probes
            .retain(|name, (id, _)| current.iter().any(|(n, i)| n == name && i == id));
        for (name, id) in current {
            if self.probes.get(&name).is_some_and(|(i, _)| *i == id)
                || self.memory.busy.contains(&Busy::Container(name.clone()))
            {
                continue;
            }
            let Some((c, _)) = pods::all(&self.pod).find(|(c, _)| c.name == name) else {
                continue;
            };
            let api = self.api_status(&name, &id);
            let memory = self.memory.containers.entry(name.clone()).or_default();
            memory.id = id.clone();
            memory.unhealthy = None;
            // An agent that has just started believes what the one before it found.
            memory.started = c.startup_probe.is_none() || api.is_some_and(|(started, _)| started);
            memory.ready = match &c.readiness_probe {
                None => true,
                Some(_) => api.is_some_and(|(_, ready)| ready),
            };
            if c.readiness_probe.is_some() && memory.ready {
                self.carried.insert(name.clone(), 0);
            } else {
                self.carried.remove(&name);
            }
            let watching = probe::watch(&c, self.target(&c, &id), self.outcomes.clone());
            self.probes.insert(name, (id, watching));
        }
    }

    /// Started and ready, as the API has it of this very container.
    pub(super) fn api_status(&self, name: &str, id: &str) -> Option<(bool, bool)> {
        let status = self.pod.status.as_ref()?;
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let found = lists.into_iter().flatten().flatten().find(|c| c.name == name)?;
        let same = found.container_id.as_deref().is_some_and(|i| i.ends_with(id));
        same.then(|| (found.started == Some(true), found.ready))
    }

    pub(super) fn target(&self, c: &Container, id: &str) -> Target {
        let host = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let ips = self.ips();
        let ip = if host { None } else { ips.first() };
        super::super::target(c, id, ip, &self.shared.config, &self.runtime)
    }

    pub(super) fn ips(&self) -> Vec<String> {
        self.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default()
    }

    pub(super) fn probed(&mut self, outcome: Outcome) {
        let current = self
            .memory
            .containers
            .get_mut(&outcome.container)
            .filter(|m| m.id == outcome.id);
        let Some(memory) = current else { return };
        if outcome.event {
            self.doubt(&outcome);
            let field = self.field(&outcome.container);
            let events = &self.shared.events;
            return events.say(&self.object, &field, EventKind::Warning, "Unhealthy", &outcome.message);
        }
        match (outcome.kind, outcome.healthy) {
            (Probe::Startup, true) => memory.started = true,
            (Probe::Readiness, healthy) => {
                memory.ready = healthy;
                self.carried.remove(&outcome.container);
            }
            (Probe::Liveness, true) => {}
            (kind, false) => {
                let kind = if kind == Probe::Startup { "startup" } else { "liveness" };
                memory.unhealthy = Some(format!(
                    "Container {} failed {kind} probe, will be restarted",
                    outcome.container
                ));
            }
        }
    }

    /// A probe begins as unready, so it does not tell when a container that was ready under an
    /// earlier agent is not any more: its failures are counted here.
    pub(super) fn doubt(&mut self, outcome: &Outcome) {
        if outcome.kind != Probe::Readiness {
            return;
        }
        let Some(failures) = self.carried.get_mut(&outcome.container) else {
            return;
        };
        *failures += 1;
        let container = pods::all(&self.pod).find(|(c, _)| c.name == outcome.container);
        let limit = container.and_then(|(c, _)| c.readiness_probe?.failure_threshold);
        if *failures >= limit.unwrap_or(3) {
            self.carried.remove(&outcome.container);
            if let Some(memory) = self.memory.containers.get_mut(&outcome.container) {
                memory.ready = false;
            }
        }
    }
}

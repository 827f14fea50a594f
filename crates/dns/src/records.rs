//! What there is to answer, by name. A pure value: Services and EndpointSlices
//! go in, names and addresses come out.
//!
//! Must not parse messages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// What a name stands for. Several may be there at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Addresses.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Ports with the names that have them.
    pub services: BTreeSet<(u16, String)>,
    /// Another name, of an ExternalName Service.
    pub alias: Option<String>,
    /// Whether the addresses lead back to this name (PTR).
    pub reverse: bool,
}

/// All names of the cluster domain. Names are in lower case, without the last dot.
#[derive(Clone, Debug, Default)]
pub struct Records {
    domain: String,
    complete: bool,
    entries: HashMap<String, Entry>,
    /// How many names end in this one, itself included: what is counted exists.
    exists: HashMap<String, usize>,
    addresses: HashMap<Ipv4Addr, BTreeSet<String>>,
    /// Names by the Service (namespace, name) that they come from.
    owned: BTreeMap<(String, String), Vec<(String, Entry)>>,
}

impl Records {
    /// No names but the domain's own.
    pub fn new(domain: &str) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        let mut records = Records {
            domain: domain.clone(),
            ..Records::default()
        };
        let own = ["svc", "pod", "dns-version"].map(|n| format!("{n}.{domain}"));
        for name in own.into_iter().chain([domain]) {
            records.exists.insert(name, 1);
        }
        records
    }

    /// From now on, a name that is not here does not exist. Before, that cannot be told.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Whether all Services were taken in.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The cluster's domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What a name stands for.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Whether a name, or one below it, is there.
    pub fn exists(&self, name: &str) -> bool {
        self.exists.contains_key(name)
    }

    /// Whether a name belongs to the cluster domain.
    pub fn is_ours(&self, name: &str) -> bool {
        name == self.domain || name.strip_suffix(&self.domain).is_some_and(|rest| rest.ends_with('.'))
    }

    /// The names of an address.
    pub fn names(&self, address: Ipv4Addr) -> impl Iterator<Item = &str> {
        self.addresses.get(&address).into_iter().flatten().map(String::as_str)
    }

    /// The address that a pod name such as `10-42-0-7.shop.pod.cluster.local` spells.
    pub fn pod(&self, name: &str) -> Option<Ipv4Addr> {
        let rest = name.strip_suffix(&self.domain)?.strip_suffix(".pod.")?;
        let (spelled, namespace) = rest.split_once('.')?;
        if namespace.is_empty() || namespace.contains('.') {
            return None;
        }
        spelled.replace('-', ".").parse().ok()
    }

    /// Takes in a Service with its slices; both replace what was there of it.
    pub fn set(&mut self, namespace: &str, name: &str, service: &Service, slices: &[&EndpointSlice]) {
        self.remove(namespace, name);
        let names = self.names_of(namespace, name, service, slices);
        for (name, entry) in &names {
            self.link(name, entry);
        }
        self.owned.insert((namespace.to_owned(), name.to_owned()), names);
    }

    /// Takes a Service out.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        let owned = self.owned.remove(&(namespace.to_owned(), name.to_owned()));
        for (name, entry) in owned.into_iter().flatten() {
            self.unlink(&name, &entry);
        }
    }

    fn link(&mut self, name: &str, entry: &Entry) {
        for ancestor in ancestors(name, &self.domain) {
            *self.exists.entry(ancestor.to_owned()).or_default() += 1;
        }
        for address in entry.addresses.iter().filter(|_| entry.reverse) {
            self.addresses.entry(*address).or_default().insert(name.to_owned());
        }
        self.entries.insert(name.to_owned(), entry.clone());
    }

    fn unlink(&mut self, name: &str, entry: &Entry) {
        for ancestor in ancestors(name, &self.domain) {
            if let Some(count) = self.exists.get_mut(ancestor) {
                *count -= 1;
                if *count == 0 {
                    self.exists.remove(ancestor);
                }
            }
        }
        for address in &entry.addresses {
            if let Some(names) = self.addresses.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
        self.entries.remove(name);
    }

    fn names_of(
        &self,
        namespace: &str,
        name: &str,
        service: &Service,
        slices: &[&EndpointSlice],
    ) -> Vec<(String, Entry)> {
        let base = format!("{name}.{namespace}.svc.{}", self.domain);
        let Some(spec) = &service.spec else { return Vec::new() };
        if spec.type_.as_deref() == Some("ExternalName") {
            let alias = spec.external_name.as_deref().unwrap_or_default();
            let entry = Entry {
                alias: Some(alias.trim_end_matches('.').to_ascii_lowercase()),
                ..Entry::default()
            };
            return vec![(base, entry)];
        }
        let mut names: BTreeMap<String, Entry> = BTreeMap::new();
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if headless {
            let all = spec.publish_not_ready_addresses.unwrap_or(false);
            for slice in slices {
                endpoints(&mut names, &base, slice, all);
            }
        } else {
            let ips = spec
                .cluster_ips
                .clone()
                .unwrap_or_else(|| spec.cluster_ip.clone().into_iter().collect());
            let addresses: BTreeSet<Ipv4Addr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            if !addresses.is_empty() {
                let entry = names.entry(base.clone()).or_default();
                (entry.addresses, entry.reverse) = (addresses, true);
                for port in spec.ports.iter().flatten() {
                    let protocol = port.protocol.as_deref().unwrap_or("TCP");
                    port_name(&mut names, &base, port.name.as_deref(), protocol, port.port, &base);
                }
            }
        }
        names.into_iter().collect()
    }
}

fn port_name(
    names: &mut BTreeMap<String, Entry>,
    base: &str,
    port: Option<&str>,
    protocol: &str,
    number: i32,
    target: &str,
) {
    let (Some(port), Ok(number)) = (port.filter(|p| !p.is_empty()), u16::try_from(number)) else {
        return;
    };
    let name = format!(
        "_{}._{}.{base}",
        port.to_ascii_lowercase(),
        protocol.to_ascii_lowercase()
    );
    names
        .entry(name)
        .or_default()
        .services
        .insert((number, target.to_owned()));
}

/// The endpoints of a headless Service, the ready ones or all: together under its name, each under its own.
fn endpoints(names: &mut BTreeMap<String, Entry>, base: &str, slice: &EndpointSlice, all: bool) {
    for endpoint in slice.endpoints.iter().flatten() {
        let ready = all || endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        let addresses: BTreeSet<Ipv4Addr> = endpoint.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        let Some(first) = addresses.first().filter(|_| ready) else {
            continue;
        };
        let own = endpoint
            .hostname
            .clone()
            .unwrap_or_else(|| first.to_string().replace('.', "-"));
        let own = format!("{}.{base}", own.to_ascii_lowercase());
        names.entry(base.to_owned()).or_default().addresses.extend(&addresses);
        let entry = names.entry(own.clone()).or_default();
        entry.addresses.extend(&addresses);
        entry.reverse = true;
        for port in slice.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            port_name(
                names,
                base,
                port.name.as_deref(),
                protocol,
                port.port.unwrap_or(0),
                &own,
            );
        }
    }
}

/// A name and all that it lies in, down to below the domain.
fn ancestors<'a>(name: &'a str, domain: &'a str) -> impl Iterator<Item = &'a str> {
    let below = move |n: &&str| n.len() > domain.len() && n.ends_with(domain);
    std::iter::successors(Some(name), |n| n.split_once('.').map(|(_, rest)| rest)).take_while(below)
}

//! An nftables table as a value: chains of rules, sets and maps of elements.
//!
//! Must not know what the rules are for.

use std::collections::BTreeMap;

/// A table of family `ip`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Name of the table.
    pub table: String,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel enters it, such as `type nat hook prerouting priority dstnat`; `None`
    /// when only rules lead to it.
    pub hook: Option<String>,
    /// Its rules, in order.
    pub rules: Vec<String>,
}

/// A set, or a map when its elements have values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Whether it is a map.
    pub map: bool,
    /// Its type and options, such as `type ipv4_addr; flags dynamic,timeout; timeout 10s`.
    pub spec: String,
    /// Elements and their values; empty values for a set. Elements that the kernel adds by
    /// itself are no part of this.
    pub elements: BTreeMap<String, String>,
}

impl Ruleset {
    /// An empty table.
    pub fn new(table: &str) -> Self {
        Ruleset {
            table: table.to_owned(),
            ..Ruleset::default()
        }
    }

    /// Sets a chain that only rules lead to.
    pub fn chain(&mut self, name: impl Into<String>, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { hook: None, rules });
    }

    /// Sets a chain that the kernel enters.
    pub fn hook(&mut self, name: &str, hook: &str, rules: Vec<String>) {
        let hook = Some(hook.to_owned());
        self.chains.insert(name.to_owned(), Chain { hook, rules });
    }

    /// Declares a set or a map without elements.
    pub fn declare(&mut self, name: impl Into<String>, map: bool, spec: &str) {
        let set = Set {
            map,
            spec: spec.to_owned(),
            elements: BTreeMap::new(),
        };
        self.sets.insert(name.into(), set);
    }

    /// Adds an element to a declared set or map. The first to claim a key has it: two services
    /// may name the same external address.
    pub fn element(&mut self, set: &str, key: String, value: String) {
        if let Some(set) = self.sets.get_mut(set) {
            set.elements.entry(key).or_insert(value);
        }
    }
}

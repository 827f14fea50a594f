//! What must be said to nft so that one table becomes another, in one transaction.
//!
//! Must not know what the rules are for.

use std::fmt;

use crate::Ruleset;

/// One line for nft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes the table, empty; whatever was in one of this name is gone.
    Reset {
        /// Its name.
        table: String,
    },
    /// Makes a chain.
    AddChain {
        /// The table.
        table: String,
        /// Its name.
        name: String,
        /// Where the kernel enters it.
        hook: Option<String>,
    },
    /// Makes a set or a map.
    AddSet {
        /// The table.
        table: String,
        /// Its name.
        name: String,
        /// Whether it is a map.
        map: bool,
        /// Its type and options.
        spec: String,
    },
    /// Removes elements.
    DeleteElements {
        /// The table.
        table: String,
        /// The set.
        set: String,
        /// Their keys.
        keys: Vec<String>,
    },
    /// Removes all rules of a chain.
    FlushChain {
        /// The table.
        table: String,
        /// The chain.
        name: String,
    },
    /// Adds elements.
    AddElements {
        /// The table.
        table: String,
        /// The set.
        set: String,
        /// Keys and values.
        elements: Vec<(String, String)>,
    },
    /// Adds a rule at the end of a chain.
    AddRule {
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The rule.
        rule: String,
    },
    /// Removes a chain, which must be empty and unused.
    DeleteChain {
        /// The table.
        table: String,
        /// Its name.
        name: String,
    },
    /// Removes a set or a map, which must be unused.
    DeleteSet {
        /// The table.
        table: String,
        /// Its name.
        name: String,
        /// Whether it is a map.
        map: bool,
    },
}

/// What turns `old` into `new`: nothing when they are equal, and only what differs otherwise.
///
/// Rules of a chain are replaced together; sets whose type and chains whose hook differ make the
/// whole table anew.
pub fn diff(old: &Ruleset, new: &Ruleset) -> Vec<Command> {
    let respecified = |name: &String| match (old.sets.get(name), new.sets.get(name)) {
        (Some(a), Some(b)) => a.spec != b.spec || a.map != b.map,
        _ => false,
    };
    let rehooked = |name: &String| match (old.chains.get(name), new.chains.get(name)) {
        (Some(a), Some(b)) => a.hook != b.hook,
        _ => false,
    };
    if old.table != new.table || new.sets.keys().any(respecified) || new.chains.keys().any(rehooked) {
        return replace(new);
    }
    changes(old, new)
}

/// What makes `new`, whatever there is.
pub fn replace(new: &Ruleset) -> Vec<Command> {
    let table = new.table.clone();
    let mut commands = vec![Command::Reset { table }];
    commands.extend(changes(&Ruleset::new(&new.table), new));
    commands
}

/// The order matters: whatever refers to something comes after it is made, and goes before it.
fn changes(old: &Ruleset, new: &Ruleset) -> Vec<Command> {
    let mut commands = Vec::new();
    let table = || new.table.clone();
    for (name, chain) in new.chains.iter().filter(|(n, _)| !old.chains.contains_key(*n)) {
        commands.push(Command::AddChain {
            table: table(),
            name: name.clone(),
            hook: chain.hook.clone(),
        });
    }
    for (name, set) in new.sets.iter().filter(|(n, _)| !old.sets.contains_key(*n)) {
        commands.push(Command::AddSet {
            table: table(),
            name: name.clone(),
            map: set.map,
            spec: set.spec.clone(),
        });
    }
    for (name, set) in &old.sets {
        let keys: Vec<String> = missing(old, new, name).into_iter().map(|(key, _)| key).collect();
        // Those of a set that goes need not be named, unless they hold chains.
        if !keys.is_empty() && (new.sets.contains_key(name) || set.map) {
            commands.push(Command::DeleteElements {
                table: table(),
                set: name.clone(),
                keys,
            });
        }
    }
    let same = |name: &String| old.chains.get(name).map(|c| &c.rules) == new.chains.get(name).map(|c| &c.rules);
    for (name, chain) in &old.chains {
        if !same(name) && !chain.rules.is_empty() {
            commands.push(Command::FlushChain {
                table: table(),
                name: name.clone(),
            });
        }
    }
    for name in new.sets.keys() {
        let elements = missing(new, old, name);
        if !elements.is_empty() {
            commands.push(Command::AddElements {
                table: table(),
                set: name.clone(),
                elements,
            });
        }
    }
    for (name, chain) in new.chains.iter().filter(|(n, _)| !same(n)) {
        commands.extend(chain.rules.iter().map(|rule| Command::AddRule {
            table: table(),
            chain: name.clone(),
            rule: rule.clone(),
        }));
    }
    for name in old.chains.keys().filter(|n| !new.chains.contains_key(*n)) {
        commands.push(Command::DeleteChain {
            table: table(),
            name: name.clone(),
        });
    }
    for (name, set) in old.sets.iter().filter(|(n, _)| !new.sets.contains_key(*n)) {
        commands.push(Command::DeleteSet {
            table: table(),
            name: name.clone(),
            map: set.map,
        });
    }
    commands
}

/// Elements of a set that `other` does not have, or has with another value.
fn missing(of: &Ruleset, other: &Ruleset, set: &str) -> Vec<(String, String)> {
    let Some(set_here) = of.sets.get(set) else {
        return Vec::new();
    };
    let there = other.sets.get(set);
    let differs = |key: &String, value: &String| there.and_then(|s| s.elements.get(key)) != Some(value);
    let elements = set_here.elements.iter().filter(|(k, v)| differs(k, v));
    elements.map(|(k, v)| (k.clone(), v.clone())).collect()
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Reset { table } => {
                write!(f, "add table ip {table}\ndelete table ip {table}\nadd table ip {table}")
            }
            Command::AddChain { table, name, hook } => match hook {
                Some(hook) => write!(f, "add chain ip {table} {name} {{ {hook}; }}"),
                None => write!(f, "add chain ip {table} {name}"),
            },
            Command::AddSet { table, name, map, spec } => {
                write!(f, "add {} ip {table} {name} {{ {spec}; }}", word(*map))
            }
            Command::DeleteElements { table, set, keys } => {
                write!(f, "delete element ip {table} {set} {{ {} }}", keys.join(", "))
            }
            Command::FlushChain { table, name } => write!(f, "flush chain ip {table} {name}"),
            Command::AddElements { table, set, elements } => {
                write!(f, "add element ip {table} {set} {{ {} }}", Elements(elements))
            }
            Command::AddRule { table, chain, rule } => write!(f, "add rule ip {table} {chain} {rule}"),
            Command::DeleteChain { table, name } => write!(f, "delete chain ip {table} {name}"),
            Command::DeleteSet { table, name, map } => write!(f, "delete {} ip {table} {name}", word(*map)),
        }
    }
}

fn word(map: bool) -> &'static str {
    if map { "map" } else { "set" }
}

struct Elements<'a>(&'a [(String, String)]);

impl fmt::Display for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let colon = if value.is_empty() { "" } else { " : " };
            write!(f, "{comma}{key}{colon}{value}")?;
        }
        Ok(())
    }
}

//! `cargo xtask tidy`: the floors of `layers.toml` against every manifest, and
//! the rules of the house that a compiler does not check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// What a pure floor must not use.
const IMPURE: [&str; 7] = ["tokio", "hyper", "rustix", "nix", "rtnetlink", "tonic", "mio"];
/// A file longer than this needs a reason at its top.
const LONGEST: usize = 1000;

struct Floor {
    name: String,
    crates: Vec<String>,
    pure: bool,
    siblings: bool,
}

/// Checks everything; every finding is printed.
pub fn run() -> Result<()> {
    let root = crate::root();
    let mut findings = Vec::new();
    let floors = floors(&root)?;
    check_floors(&root, &floors, &mut findings)?;
    for file in rust_files(&root)? {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        check_file(&name, &text, &mut findings);
    }
    check_links(&root, &mut findings)?;
    if findings.is_empty() {
        println!("tidy: {} floors, all in order", floors.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    bail!("tidy: {} findings", findings.len())
}

fn floors(root: &Path) -> Result<Vec<Floor>> {
    let text = fs::read_to_string(root.join("layers.toml")).context("read layers.toml")?;
    let table: Table = text.parse().context("layers.toml")?;
    let list = table
        .get("floor")
        .and_then(Value::as_array)
        .context("layers.toml has no [[floor]]")?;
    list.iter()
        .map(|floor| {
            let text = |v: &Value| v.as_str().map(str::to_owned);
            let crates = floor
                .get("crates")
                .and_then(Value::as_array)
                .context("a floor without crates")?;
            Ok(Floor {
                name: floor.get("name").and_then(text).context("a floor without a name")?,
                crates: crates.iter().filter_map(text).collect(),
                pure: floor.get("pure").and_then(Value::as_bool).unwrap_or(false),
                siblings: floor.get("siblings").and_then(Value::as_bool).unwrap_or(true),
            })
        })
        .collect()
}

fn check_floors(root: &Path, floors: &[Floor], findings: &mut Vec<String>) -> Result<()> {
    // Position in the house: floor, then place on it.
    let mut places: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (f, floor) in floors.iter().enumerate() {
        for (i, name) in floor.crates.iter().enumerate() {
            if places.insert(name, (f, i)).is_some() {
                findings.push(format!("layers.toml lists {name} twice"));
            }
        }
    }
    let tests = floors.len() - 1;
    for manifest in manifests(root)? {
        let table: Table = fs::read_to_string(&manifest)?
            .parse()
            .with_context(|| manifest.display().to_string())?;
        let name = table["package"]["name"].as_str().unwrap_or_default().to_owned();
        let Some(&(f, i)) = places.get(name.as_str()) else {
            findings.push(format!("{name} is on no floor: add it to layers.toml"));
            continue;
        };
        let empty = Table::new();
        let used = table.get("dependencies").and_then(Value::as_table).unwrap_or(&empty);
        for dependency in used.keys() {
            if floors[f].pure && IMPURE.contains(&dependency.as_str()) {
                findings.push(format!(
                    "{name} is on the pure floor {} and uses {dependency}",
                    floors[f].name
                ));
            }
            let Some(&(df, di)) = places.get(dependency.as_str()) else {
                continue;
            };
            let allowed = df < f || (df == f && di < i && floors[f].siblings);
            if !allowed || (df == tests && f != tests) {
                findings.push(format!(
                    "{name} ({}) may not use {dependency} ({})",
                    floors[f].name, floors[df].name
                ));
            }
        }
    }
    Ok(())
}

fn manifests(root: &Path) -> Result<Vec<PathBuf>> {
    let mut out = vec![root.join("xtask/Cargo.toml")];
    for entry in fs::read_dir(root.join("crates"))?.flatten() {
        let manifest = entry.path().join("Cargo.toml");
        if manifest.exists() {
            out.push(manifest);
        }
    }
    out.sort();
    Ok(out)
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for place in ["crates", "xtask", "examples"] {
        collect(&root.join(place), "rs", &mut out)?;
    }
    Ok(out)
}

fn collect(directory: &Path, extension: &str, out: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !matches!(entry.file_name().to_str(), Some("target" | ".git" | "node_modules")) {
                collect(&path, extension, out)?;
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            out.push(path);
        }
    }
    Ok(())
}

fn check_file(name: &str, text: &str, findings: &mut Vec<String>) {
    let first = text
        .lines()
        .find(|l| !l.trim().is_empty() && !l.starts_with("#!"))
        .unwrap_or_default();
    if !first.starts_with("//!") {
        findings.push(format!(
            "{name} does not open with //!: say what it is and what it must not do"
        ));
    }
    if text.lines().count() > LONGEST && !text.contains("//! Long because") {
        findings.push(format!(
            "{name} has more than {LONGEST} lines: split it by domain, or say `Long because ...` at its top"
        ));
    }
    // The words are put together here so that this file does not accuse itself.
    for word in ["to\u{64}o!(", "unimplemente\u{64}!(", "db\u{67}!("] {
        if text.contains(word) {
            findings.push(format!("{name} has {word}...)"));
        }
    }
    let unsafe_block = ["unsaf", "e {"].concat();
    // A benchmark may have to open a candidate that can only be opened so.
    let exempt = name.starts_with("crates/host/") || name.contains("/examples/");
    if text.contains(&unsafe_block) && !exempt {
        findings.push(format!("{name} has an unsafe block: those live in crates/host"));
    }
}

/// Every relative link of the documents leads somewhere.
fn check_links(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let mut documents = Vec::new();
    collect(root, "md", &mut documents)?;
    for document in documents {
        let text = fs::read_to_string(&document)?;
        let place = document.parent().unwrap_or(root);
        for target in text.split("](").skip(1).filter_map(|r| r.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            if !place.join(path).exists() {
                findings.push(format!("{}: the link to {target} leads nowhere", document.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_held_to_the_rules() {
        let mut findings = Vec::new();
        check_file("a.rs", "//! Fine.\nfn a() {}\n", &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        check_file(
            "a.rs",
            &format!("fn a() {{ {}) }}", ["to", "do!("].concat()),
            &mut findings,
        );
        check_file(
            "a.rs",
            &format!("//! x\nfn a() {{ {} }} }}", ["unsaf", "e {"].concat()),
            &mut findings,
        );
        assert_eq!(findings.len(), 3, "{findings:?}");
    }
}

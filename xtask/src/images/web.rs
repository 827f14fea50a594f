//! `allmend.local/farm-shop-web:1` and `:2`: the example's web front, twice, so
//! that there is something to update to.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Recipe, archive, copy_libraries, hex};
use crate::run;

pub const ONE: Recipe = Recipe {
    name: "farm-shop-web-1",
    inputs: || inputs("1"),
    build: |file, work| build(file, work, "1", "#3f7d3a"),
};

pub const TWO: Recipe = Recipe {
    name: "farm-shop-web-2",
    inputs: || inputs("2"),
    build: |file, work| build(file, work, "2", "#a4502a"),
};

/// The program's source and what it is linked with.
fn inputs(version: &str) -> Result<String> {
    let root = crate::root();
    let mut files = vec![root.join("Cargo.lock"), root.join("examples/farm-shop/web/Cargo.toml")];
    files.extend(
        fs::read_dir(root.join("examples/farm-shop/web/src"))?
            .flatten()
            .map(|e| e.path()),
    );
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    Ok(format!("1 {version} {}", hex(&hash.finalize())))
}

fn build(file: &Path, work: &Path, version: &str, accent: &str) -> Result<()> {
    run::cargo(&["build", "--release", "--package", "farm-shop-web"])?;
    let program = crate::released("farm-shop-web");
    let root = work.join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("etc"))?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::copy(&program, root.join("bin/farm-shop-web"))?;
    copy_libraries(&program, &root)?;
    fs::write(root.join("etc/passwd"), "shop:x:1000:1000:shop:/:/bin/false\n")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    let config = json!({"Entrypoint": ["/bin/farm-shop-web"], "User": "1000:1000",
        "Env": ["PATH=/bin", format!("SHOP_VERSION={version}"), format!("SHOP_ACCENT={accent}")],
        "ExposedPorts": {"8080/tcp": {}}});
    archive::write(
        file,
        work,
        &format!("allmend.local/farm-shop-web:{version}"),
        (&root, 0),
        &config,
    )
}

//! `cargo xtask test`: every test, unit to end to end.

use std::process::Command;

use anyhow::Result;

use crate::{deps, images, run, tidy};

/// Installs what the tests need and runs all of them.
pub fn run() -> Result<()> {
    deps::install(deps::TEST)?;
    let kubectl = deps::kubectl()?;
    tidy::run()?;
    run::cargo(&["build", "--release", "--package", "allmend"])?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run::program(
        Command::new(&cargo)
            .args(["test", "--workspace", "--features", "store/etcd"])
            .env("ALLMEND_TEST_KERNEL", images::kernel_tree()?)
            .current_dir(crate::root()),
    )?;
    images::build(&[])?;
    let binary = crate::released("allmend");
    run::program(
        Command::new(cargo)
            .args([
                "test",
                "--package",
                "e2e",
                "--features",
                "e2e",
                "--",
                "--test-threads=2",
            ])
            .env("ALLMEND_BIN", binary)
            .env("KUBECTL", kubectl)
            .env("ALLMEND_IMAGES", images::directory())
            .current_dir(crate::root()),
    )
}

//! `cargo xtask test`: every test, unit to end to end.

use anyhow::Result;

use crate::{deps, images, run, tidy};

/// Installs what the tests need and runs all of them.
pub fn run() -> Result<()> {
    deps::install(deps::TEST)?;
    let kubectl = deps::kubectl()?;
    let clients = deps::clients()?;
    tidy::run()?;
    run::cargo(&["build", "--release", "--package", "allmend"])?;
    run::program(
        run::cargo_command()
            .args(["test", "--workspace", "--features", "store/etcd"])
            .env("ALLMEND_TEST_KERNEL", images::kernel_tree()?),
    )?;
    images::build(&[])?;
    let binary = crate::released("allmend");
    run::program(
        run::cargo_command()
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
            .env("ALLMEND_CLIENTS", clients)
            .env("ALLMEND_IMAGES", images::directory()),
    )
}

//! `allmend image`: the images of this machine's containerd.
//!
//! Must not pull: that is what pods do.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cri::{ContainerdConfig, CriRuntime};
use runtime::PodRuntime;

/// What is to be done.
pub enum Verb {
    /// Take in archives or layouts.
    Import {
        /// Files or directories.
        paths: Vec<PathBuf>,
        /// Name for layouts that carry none.
        name: Option<String>,
    },
    /// List.
    List,
    /// Remove by name or id.
    Remove {
        /// References.
        images: Vec<String>,
    },
}

/// Does it.
pub fn run(data_dir: &Path, endpoint: Option<&str>, verb: Verb) -> Result<()> {
    let socket = ContainerdConfig::new(data_dir).socket();
    if endpoint.is_none() && !socket.exists() {
        bail!(
            "no containerd answers at {}: start the server with --data-dir {}, or name a runtime with --container-runtime-endpoint",
            socket.display(),
            data_dir.display()
        );
    }
    let endpoint = endpoint.map_or_else(|| socket.to_string_lossy().into_owned(), str::to_owned);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let runtime = CriRuntime::new(&endpoint);
        match verb {
            Verb::Import { paths, name } => import(&runtime, &paths, name.as_deref()).await,
            Verb::List => list(&runtime).await,
            Verb::Remove { images } => remove(&runtime, &images).await,
        }
    })
}

async fn import(runtime: &CriRuntime, paths: &[PathBuf], name: Option<&str>) -> Result<()> {
    for path in paths {
        let names = runtime
            .import(path, name)
            .await
            .with_context(|| format!("import {}", path.display()))?;
        for name in names {
            println!("{name}");
        }
    }
    Ok(())
}

async fn list(runtime: &CriRuntime) -> Result<()> {
    let images = runtime.list_images().await?;
    let mut rows: Vec<(String, String, u64)> = Vec::new();
    for image in images {
        let id = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect::<String>();
        let names = if image.repo_tags.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            image.repo_tags
        };
        rows.extend(names.into_iter().map(|n| (n, id.clone(), image.size)));
    }
    rows.sort();
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0).max("IMAGE".len());
    println!("{:width$}  {:12}  SIZE", "IMAGE", "ID");
    for (name, id, size) in rows {
        println!("{name:width$}  {id:12}  {:.1} MB", size as f64 / 1e6);
    }
    Ok(())
}

async fn remove(runtime: &CriRuntime, images: &[String]) -> Result<()> {
    for image in images {
        if runtime.image_status(image).await?.is_none() {
            bail!("no image {image:?} here; allmend image ls shows what there is");
        }
        runtime
            .remove_image(image)
            .await
            .with_context(|| format!("remove {image}"))?;
        println!("{image}");
    }
    Ok(())
}

//! Images: the CRI image service, and what CRI lacks: importing archives and
//! showing an image's files at a path. Those two go through containerd's own `ctr`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use runtime::{ImageInfo, RegistryAuth, RuntimeError};
use tokio::process::Command;
use tonic::transport::Channel;

use crate::channel::{error, timed};
use crate::{NAMESPACE, convert};

const CALL: Duration = Duration::from_secs(60);
/// Longest pull, as generous as slow links need.
const PULL: Duration = Duration::from_secs(3600);

pub struct Images {
    pub client: ImageServiceClient<Channel>,
    pub ctr: PathBuf,
    pub socket: PathBuf,
}

impl Images {
    pub async fn status(&self, image: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        let request = cri::ImageStatusRequest {
            image: Some(convert::image_spec(image, "")),
            verbose: false,
        };
        let answer = self.client.clone().image_status(timed(request, CALL)).await;
        let answer = answer.map_err(|s| error(&format!("status of image {image}"), &s))?;
        Ok(answer.into_inner().image.map(convert::image_info))
    }

    pub async fn pull(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<String, RuntimeError> {
        let request = cri::PullImageRequest {
            image: Some(convert::image_spec(image, image)),
            auth: auth.map(convert::auth),
            sandbox_config: None,
        };
        let answer = self.client.clone().pull_image(timed(request, PULL)).await;
        Ok(answer.map_err(|s| error("", &s))?.into_inner().image_ref)
    }

    pub async fn list(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        let request = timed(cri::ListImagesRequest::default(), CALL);
        let answer = self.client.clone().list_images(request).await;
        let images = answer.map_err(|s| error("list images", &s))?.into_inner().images;
        Ok(images.into_iter().map(convert::image_info).collect())
    }

    pub async fn remove(&self, image: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveImageRequest {
            image: Some(convert::image_spec(image, "")),
        };
        let answer = self.client.clone().remove_image(timed(request, CALL)).await;
        answer.map_err(|s| error(&format!("remove image {image}"), &s)).map(|_| ())
    }

    /// Imports a docker archive or an OCI layout (archive or directory). Returns the names.
    pub async fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<String>, RuntimeError> {
        let metadata = tokio::fs::metadata(path).await;
        let metadata = metadata.map_err(|e| RuntimeError::Failed(format!("{}: {e}", path.display())))?;
        let mut arguments = vec!["images", "import"];
        if let Some(name) = name {
            arguments.extend(["--index-name", name]);
        }
        let from_directory = metadata.is_dir();
        let text = path.to_string_lossy().into_owned();
        arguments.push(if from_directory { "-" } else { &text });
        let packing = from_directory.then(|| pack(path)).transpose()?;
        let out = self.ctr(&arguments, packing).await?;
        let names = imported(&out);
        for name in &names {
            self.visible(name).await?;
        }
        Ok(names)
    }

    /// containerd tells its CRI part of new images by an event, so `ctr` may be done before CRI knows.
    async fn visible(&self, name: &str) -> Result<(), RuntimeError> {
        for wait in [2, 5, 10, 20, 50, 100, 200, 400, 800, 1600, 3200] {
            if self.status(name).await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Err(RuntimeError::Failed(format!("image {name} was imported but does not appear in CRI")))
    }

    pub async fn mount(&self, image: &str, target: &Path) -> Result<(), RuntimeError> {
        if is_mount_point(target)? {
            return Ok(());
        }
        let found = self.status(image).await?;
        let found = found.ok_or_else(|| RuntimeError::NotFound(format!("image {image}")))?;
        // `ctr` knows names, not ids.
        let name = found.repo_tags.iter().chain(&found.repo_digests).next().unwrap_or(&found.id).clone();
        let text = target.to_string_lossy().into_owned();
        // A view that a mount before a reboot left behind has the same key.
        let _ = self.ctr(&["snapshots", "rm", &text], None).await;
        self.ctr(&["images", "mount", &name, &text], None).await.map(|_| ())
    }

    pub async fn unmount(&self, target: &Path) -> Result<(), RuntimeError> {
        let text = target.to_string_lossy().into_owned();
        if is_mount_point(target)? {
            self.ctr(&["images", "unmount", "--rm", &text], None).await?;
        }
        Ok(())
    }

    async fn ctr(&self, arguments: &[&str], input: Option<Stdio>) -> Result<String, RuntimeError> {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", NAMESPACE]);
        command.args(arguments).stdin(input.unwrap_or_else(Stdio::null)).kill_on_drop(true);
        let output = command.output().await;
        let output = output.map_err(|e| RuntimeError::Failed(format!("run {}: {e}", self.ctr.display())))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(RuntimeError::Failed(format!("ctr {}: {}", arguments.join(" "), said.trim())))
    }
}

fn pack(directory: &Path) -> Result<Stdio, RuntimeError> {
    let failed = |e| RuntimeError::Failed(format!("run tar: {e}"));
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C").arg(directory).args(["-cf", "-", "."]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = tar.spawn().map_err(failed)?;
    let out = child.stdout.take();
    std::thread::spawn(move || child.wait());
    out.map(Stdio::from).ok_or_else(|| RuntimeError::Failed("tar has no output".into()))
}

/// Lines such as `unpacking docker.io/library/a:1 (sha256:…)...done`.
fn imported(output: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("unpacking ")?.split_once(" (")?.0.to_owned());
    output.lines().filter_map(name).collect()
}

fn is_mount_point(path: &Path) -> Result<bool, RuntimeError> {
    let table = std::fs::read_to_string("/proc/self/mountinfo");
    let table = table.map_err(|e| RuntimeError::Failed(format!("/proc/self/mountinfo: {e}")))?;
    // proc(5): the fifth field, with blanks as \040.
    let wanted = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    Ok(table.lines().any(|l| l.split(' ').nth(4) == Some(wanted.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_imported_images() {
        let out = "unpacking docker.io/library/a:1 (sha256:ab)...done\nunpacking b/c:2 (sha256:cd)...";
        assert_eq!(imported(out), ["docker.io/library/a:1", "b/c:2"]);
        assert!(imported("").is_empty());
    }
}

//! The cloud-init NoCloud seed: the files of a small disk labelled `cidata`.
//! Must not read Secrets: the caller hands their content in.

use std::io::{self, Cursor, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::Value;

use crate::PlanError;
use crate::spec::MachineSpec;

/// Files of the seed.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// `meta-data`.
    pub meta_data: String,
    /// `user-data`.
    pub user_data: Vec<u8>,
    /// `network-config`; empty for none.
    pub network_config: Vec<u8>,
}

impl Seed {
    /// File names and contents.
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        let mut out = vec![
            ("meta-data", self.meta_data.as_bytes()),
            ("user-data", self.user_data.as_slice()),
        ];
        if !self.network_config.is_empty() {
            out.push(("network-config", self.network_config.as_slice()));
        }
        out
    }
}

/// The seed as a disk image: FAT with the label `cidata`, which NoCloud looks for.
pub fn seed_image(seed: &Seed) -> io::Result<Vec<u8>> {
    disk_image("CIDATA", &seed.files())
}

/// Files as a FAT disk image with a label of at most 11 characters.
pub fn disk_image(label: &str, files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    // A file takes whole clusters, of 4 KiB at most at these sizes, and a directory entry.
    let content: usize = files
        .iter()
        .map(|(_, data)| data.len().next_multiple_of(4096) + 512)
        .sum();
    // Room for the tables: two copies of 1.5 to 2 bytes a cluster, and some.
    let size = (content + content / 64 + (512 << 10)).next_multiple_of(512 << 10);
    let mut image = Cursor::new(vec![0u8; size]);
    let mut padded = [b' '; 11];
    for (to, from) in padded.iter_mut().zip(label.bytes()) {
        *to = from;
    }
    let options = FormatVolumeOptions::new().volume_label(padded).volume_id(0x414c_4d44);
    fatfs::format_volume(&mut image, options)?;
    {
        let volume = FileSystem::new(&mut image, FsOptions::new())?;
        for (name, data) in files {
            volume.root_dir().create_file(name)?.write_all(data)?;
        }
    }
    Ok(image.into_inner())
}

/// Makes the seed out of a `cloudInitNoCloud` source. `secret` and `network_secret` are the
/// data of `secretRef` and `networkDataSecretRef`, when the source has them.
pub fn seed(
    spec: &MachineSpec,
    field: &str,
    source: &Value,
    secret: Option<&[u8]>,
    network_secret: Option<&[u8]>,
) -> Result<Seed, PlanError> {
    let user_data = match secret {
        Some(data) => data.to_vec(),
        None => inline(field, source, "userData")?,
    };
    let network_config = match network_secret {
        Some(data) => data.to_vec(),
        None => inline(field, source, "networkData")?,
    };
    // A new instance-id makes cloud-init run its per-instance modules again; it must stay
    // the same across restarts of the same machine.
    let meta_data = format!(
        "instance-id: {}.{}\nlocal-hostname: {}\n",
        spec.name, spec.namespace, spec.hostname
    );
    Ok(Seed {
        meta_data,
        user_data,
        network_config,
    })
}

fn inline(field: &str, source: &Value, key: &str) -> Result<Vec<u8>, PlanError> {
    let encoded = format!("{key}Base64");
    match (source[key].as_str(), source[&encoded].as_str()) {
        (Some(_), Some(_)) => Err(PlanError::new(
            format!("{field}.{key}"),
            format!("give either {key} or {encoded}, not both"),
        )),
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(text)) => {
            let packed: String = text.split_whitespace().collect();
            B64.decode(packed)
                .map_err(|_| PlanError::new(format!("{field}.{encoded}"), "is not valid base64"))
        }
        (None, None) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seeds_carry_name_and_data() {
        let vmi = json!({"metadata": {"name": "db", "namespace": "shop"}});
        let spec = MachineSpec::from_vmi(&vmi).unwrap();
        let source = json!({"userDataBase64": B64.encode("#cloud-config\n"), "networkData": "version: 2"});
        let made = seed(&spec, "f", &source, None, None).unwrap();
        assert_eq!(made.meta_data, "instance-id: db.shop\nlocal-hostname: db\n");
        assert_eq!(made.user_data, b"#cloud-config\n");
        assert_eq!(made.files().len(), 3);
        let secret = seed(&spec, "f", &json!({}), Some(b"x"), None).unwrap();
        assert_eq!(secret.user_data, b"x");
    }

    #[test]
    fn the_image_can_be_read_back() {
        let made = Seed {
            meta_data: "instance-id: a\n".into(),
            user_data: vec![b'x'; 700_000],
            network_config: Vec::new(),
        };
        let image = seed_image(&made).unwrap();
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        let mut text = Vec::new();
        io::Read::read_to_end(&mut volume.root_dir().open_file("user-data").unwrap(), &mut text).unwrap();
        assert_eq!(text, made.user_data);
    }

    #[test]
    fn many_small_and_few_large_files_fit() {
        let data = vec![7u8; 9_000_000];
        disk_image("A", &[("big", &data), ("more", &data)]).unwrap();
        let names: Vec<String> = (0..100).map(|i| format!("file-{i}")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
        disk_image("CFGDATA", &files).unwrap();
    }

    #[test]
    fn junk_is_named() {
        let spec = MachineSpec::from_vmi(&json!({})).unwrap();
        let error = |s: Value| {
            seed(&spec, "spec.volumes[0].cloudInitNoCloud", &s, None, None)
                .err()
                .unwrap()
                .field
        };
        assert_eq!(
            error(json!({"userDataBase64": "!"})),
            "spec.volumes[0].cloudInitNoCloud.userDataBase64"
        );
        assert_eq!(
            error(json!({"userData": "a", "userDataBase64": "YQ=="})),
            "spec.volumes[0].cloudInitNoCloud.userData"
        );
    }
}

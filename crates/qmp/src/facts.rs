//! More that the guest's agent is asked: who is logged in, what is mounted, how
//! the guest is called; and what it is told: to hold still, to reboot.
//!
//! All of it is the guest's word: every list and every text has a bound.

use serde_json::{Value, json};

use crate::QmpError;
use crate::agent::{GuestAgent, bounded};

/// Most entries that a list of the guest's may have.
const MOST: usize = 256;

/// Somebody who is logged in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestUser {
    /// Name.
    pub name: String,
    /// Windows domain; empty elsewhere.
    pub domain: String,
    /// Seconds since the epoch.
    pub login_time: f64,
}

/// A mounted filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestFilesystem {
    /// Name of the volume, such as `vda1`.
    pub name: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Its type, such as `ext4`.
    pub kind: String,
    /// Bytes in use.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
    /// Serial number and bus of the disks that it lies on.
    pub disks: Vec<(String, String)>,
}

/// What the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// Its commands, and whether they are enabled.
    pub commands: Vec<(String, bool)>,
}

impl GuestAgent {
    /// What the agent is and can do.
    pub async fn info(&mut self) -> Result<AgentInfo, QmpError> {
        let answer = self.execute("guest-info", Value::Null).await?;
        let commands = list(&answer["supported_commands"]).filter_map(|c| {
            let enabled = c["enabled"].as_bool().unwrap_or_default();
            Some((bounded(c["name"].as_str()?), enabled))
        });
        Ok(AgentInfo {
            version: text(&answer["version"]),
            commands: commands.collect(),
        })
    }

    /// The guest's host name.
    pub async fn host_name(&mut self) -> Result<String, QmpError> {
        let answer = self.execute("guest-get-host-name", Value::Null).await?;
        Ok(text(&answer["host-name"]))
    }

    /// The guest's time zone: its name and its offset in seconds.
    pub async fn time_zone(&mut self) -> Result<(String, i64), QmpError> {
        let answer = self.execute("guest-get-timezone", Value::Null).await?;
        Ok((text(&answer["zone"]), answer["offset"].as_i64().unwrap_or_default()))
    }

    /// Who is logged in.
    pub async fn users(&mut self) -> Result<Vec<GuestUser>, QmpError> {
        let answer = self.execute("guest-get-users", Value::Null).await?;
        let users = list(&answer).map(|u| GuestUser {
            name: text(&u["user"]),
            domain: text(&u["domain"]),
            login_time: u["login-time"].as_f64().unwrap_or_default(),
        });
        Ok(users.collect())
    }

    /// What is mounted.
    pub async fn filesystems(&mut self) -> Result<Vec<GuestFilesystem>, QmpError> {
        let answer = self.execute("guest-get-fsinfo", Value::Null).await?;
        let filesystems = list(&answer).map(|f| GuestFilesystem {
            name: text(&f["name"]),
            mount_point: text(&f["mountpoint"]),
            kind: text(&f["type"]),
            used: f["used-bytes"].as_u64().unwrap_or_default(),
            total: f["total-bytes"].as_u64().unwrap_or_default(),
            disks: list(&f["disk"])
                .map(|d| (text(&d["serial"]), text(&d["bus-type"])))
                .collect(),
        });
        Ok(filesystems.collect())
    }

    /// Holds all filesystems still; how many.
    pub async fn freeze(&mut self) -> Result<i64, QmpError> {
        let answer = self.execute("guest-fsfreeze-freeze", Value::Null).await?;
        Ok(answer.as_i64().unwrap_or_default())
    }

    /// Lets them go on; how many.
    pub async fn thaw(&mut self) -> Result<i64, QmpError> {
        let answer = self.execute("guest-fsfreeze-thaw", Value::Null).await?;
        Ok(answer.as_i64().unwrap_or_default())
    }

    /// Whether filesystems are held still.
    pub async fn is_frozen(&mut self) -> Result<bool, QmpError> {
        let answer = self.execute("guest-fsfreeze-status", Value::Null).await?;
        Ok(answer == "frozen")
    }

    /// Reboots the guest. The agent answers only when it cannot: silence is success.
    pub async fn reboot(&mut self) -> Result<(), QmpError> {
        match self.execute("guest-shutdown", json!({"mode": "reboot"})).await {
            Err(QmpError::Refused { command, message }) if !self.is_gone(&message) => {
                Err(QmpError::Refused { command, message })
            }
            _ => Ok(()),
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(MOST)
}

fn text(value: &Value) -> String {
    bounded(value.as_str().unwrap_or_default())
}

//! Commands on a running machine's devices, as values: they cross the
//! supervisor's socket. Must not decide which are right.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Monitor, QmpError};

/// One command with its arguments, in QEMU's terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "execute", content = "arguments", rename_all = "kebab-case")]
pub enum DeviceCommand {
    /// Adds a block node.
    BlockdevAdd(Value),
    /// Removes a block node that nothing uses.
    BlockdevDel(Value),
    /// Plugs a device.
    DeviceAdd(Value),
    /// Asks the guest to let go of a device.
    DeviceDel(Value),
    /// Writes a picture of the display to a file.
    Screendump(Value),
    /// Writes the guest's memory to a file.
    DumpGuestMemory(Value),
    /// What is done at a guest's end.
    SetAction(Value),
}

macro_rules! commands {
    ($($name:ident = $text:literal),+ $(,)?) => {
        $(
            #[derive(Serialize)]
            #[serde(transparent)]
            struct $name(Value);

            impl qapi::qmp::QmpCommand for $name {}
            impl qapi::Command for $name {
                type Ok = Value;
                const NAME: &'static str = $text;
                const ALLOW_OOB: bool = false;
            }
        )+

        impl DeviceCommand {
            /// QEMU's name of the command.
            pub fn name(&self) -> &'static str {
                match self {
                    $(DeviceCommand::$name(_) => $text,)+
                }
            }

            pub(crate) async fn execute(self, monitor: &Monitor) -> Result<(), QmpError> {
                match self {
                    $(DeviceCommand::$name(arguments) => monitor.execute($text, $name(arguments)).await.map(drop),)+
                }
            }
        }
    };
}

commands! {
    BlockdevAdd = "blockdev-add",
    BlockdevDel = "blockdev-del",
    DeviceAdd = "device_add",
    DeviceDel = "device_del",
    Screendump = "screendump",
    DumpGuestMemory = "dump-guest-memory",
    SetAction = "set-action",
}

impl DeviceCommand {
    /// What a guest's power-off does: end QEMU, or only stop the processors.
    pub fn on_power_off(pause: bool) -> Self {
        DeviceCommand::SetAction(json!({"shutdown": if pause { "pause" } else { "poweroff" }}))
    }

    /// A picture of the display.
    pub fn screendump(file: &str) -> Self {
        DeviceCommand::Screendump(json!({"filename": file, "format": "png"}))
    }

    /// The guest's memory as an ELF core.
    pub fn dump_memory(file: &str) -> Self {
        DeviceCommand::DumpGuestMemory(json!({"paging": false, "protocol": format!("file:{file}")}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_cross_a_socket() {
        let command = DeviceCommand::screendump("/x.png");
        let line = serde_json::to_string(&command).unwrap();
        assert_eq!(
            line,
            r#"{"execute":"screendump","arguments":{"filename":"/x.png","format":"png"}}"#
        );
        assert_eq!(serde_json::from_str::<DeviceCommand>(&line).unwrap(), command);
        assert_eq!(command.name(), "screendump");
    }
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Typed commands: the ones that alpy uses, each with the fields that alpy uses.
//!
//! The words are those of QEMU's QAPI schema, where each command is explained (docs/interop/qemu-qmp-ref). Replies may have
//! more fields than their types here; what is missing is a [`Client::execute_raw`](crate::Client::execute_raw) away.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::command::Command;

/// The reply that says nothing, `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Empty {}

macro_rules! commands {
    ($($(#[$doc:meta])* $type:ident = $name:literal -> $reply:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Serialize)]
        pub struct $type;
        impl Command for $type {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    )*};
    ($($(#[$doc:meta])* $type:ident { $($(#[$fdoc:meta])* $field:ident: $ftype:ty),* $(,)? } = $name:literal -> $reply:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct $type { $($(#[$fdoc])* pub $field: $ftype,)* }
        impl Command for $type {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    )*};
}

commands! {
    /// Lets the CPUs run.
    Cont = "cont" -> Empty;
    /// Stops the CPUs.
    Stop = "stop" -> Empty;
    /// Ends QEMU. [`Client::quit`](crate::Client::quit) also waits for the end, and takes an early one for success.
    Quit = "quit" -> Empty;
    /// Presses the power button: the guest may react.
    SystemPowerdown = "system_powerdown" -> Empty;
    /// Presses the reset button: the guest starts again.
    SystemReset = "system_reset" -> Empty;
    /// Whether and why the CPUs run or not.
    QueryStatus = "query-status" -> Status;
    /// The server's version.
    QueryVersion = "query-version" -> Version;
    /// The names of all commands of this server.
    QueryCommands = "query-commands" -> Vec<CommandInfo>;
    /// Everything the server understands, in 200 kB (docs/devel/qapi-code-gen, "Client JSON Protocol introspection").
    QueryQmpSchema = "query-qmp-schema" -> Vec<Value>;
    /// How far a migration is.
    QueryMigrate = "query-migrate" -> Migration;
    /// All jobs, ended ones too as long as they are not dismissed.
    QueryJobs = "query-jobs" -> Vec<Job>;
}

commands! {
    /// Plugs or pulls the cable of a NIC, as the guest sees it.
    SetLink {
        /// A NIC's or a network backend's id.
        name: String,
        /// Whether the cable is in.
        up: bool,
    } = "set_link" -> Empty;

    /// Receives a descriptor under a name; send it with [`Request::descriptor`](crate::Request::descriptor).
    Getfd {
        /// The name for later commands.
        fdname: String,
    } = "getfd" -> Empty;

    /// Closes a descriptor that [`Getfd`] brought.
    Closefd {
        /// Its name.
        fdname: String,
    } = "closefd" -> Empty;

    /// Receives a descriptor that can be opened as `/dev/fdset/N`; send it with
    /// [`Request::descriptor`](crate::Request::descriptor).
    AddFd {
        /// The set to add to; a new one if `None`.
        #[serde(skip_serializing_if = "Option::is_none")]
        fdset_id: Option<u64>,
        /// A note that `query-fdsets` shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        opaque: Option<String>,
    } = "add-fd" -> AddedFd;

    /// Gives up a set of descriptors, or one of it.
    RemoveFd {
        /// The set.
        fdset_id: u64,
        /// The server's number of the one to give up; all of the set if `None`.
        #[serde(skip_serializing_if = "Option::is_none")]
        fd: Option<i32>,
    } = "remove-fd" -> Empty;

    /// Removes a network backend. The filters on it, captures too, go with it without a word.
    NetdevDel {
        /// Its id.
        id: String,
    } = "netdev_del" -> Empty;

    /// Asks the guest to give a device up. [`Client::unplug`](crate::Client::unplug) also waits until it did.
    DeviceDel {
        /// Its id.
        id: String,
    } = "device_del" -> Empty;

    /// Removes an object.
    ObjectDel {
        /// Its id.
        id: String,
    } = "object-del" -> Empty;

    /// A command of the human monitor, and what it prints.
    HumanMonitorCommand {
        /// The line to type.
        command_line: String,
    } = "human-monitor-command" -> String;

    /// Starts to save or move the machine's state. The reply comes before the end, see [`QueryMigrate`].
    Migrate {
        /// Where to, for example `fd:name` with a name from [`Getfd`]. From QEMU 11.1 on, `fd:` takes sockets and pipes alone, and
        /// `file:path` a file.
        uri: String,
    } = "migrate" -> Empty;

    /// Starts to load a state, in a QEMU that was started with `-incoming defer`.
    MigrateIncoming {
        /// Where from, as in [`Migrate`].
        uri: String,
    } = "migrate-incoming" -> Empty;

    /// Stores a picture of the screen, as PPM.
    Screendump {
        /// Where to.
        filename: PathBuf,
    } = "screendump" -> Empty;

    /// Asks a job to end early.
    JobCancel {
        /// The job.
        id: String,
    } = "job-cancel" -> Empty;

    /// Forgets a job that has ended. Its id stays taken until then.
    JobDismiss {
        /// The job.
        id: String,
    } = "job-dismiss" -> Empty;
}

macro_rules! additions {
    ($($(#[$doc:meta])* $type:ident = $name:literal, $kind:ident in $key:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize)]
        #[must_use]
        pub struct $type {
            #[serde(rename = $key)]
            $kind: String,
            id: String,
            #[serde(flatten)]
            properties: Map<String, Value>,
        }

        impl $type {
            #[doc = concat!("One of this `", $key, "` under this id.")]
            pub fn new($kind: impl Into<String>, id: impl Into<String>) -> Self {
                Self { $kind: $kind.into(), id: id.into(), properties: Map::new() }
            }

            /// Adds a property.
            pub fn property(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
                self.properties.insert(name.into(), value.into());
                self
            }
        }

        impl Command for $type {
            const NAME: &'static str = $name;
            type Reply = Empty;
        }
    )*};
}

additions! {
    /// Adds a network backend: `NetdevAdd::new("tap", "link0").property("fd", "tap0")`.
    NetdevAdd = "netdev_add", backend in "type";
    /// Adds a device: `DeviceAdd::new("virtio-net-pci", "nic0").property("netdev", "link0")`.
    DeviceAdd = "device_add", driver in "driver";
    /// Adds an object: `ObjectAdd::new("filter-dump", "dump0").property("netdev", "link0").property("file", "link0.pcap")`.
    ObjectAdd = "object-add", class in "qom-type";
}

/// Reply of [`QueryStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Whether the CPUs run.
    pub running: bool,
    /// `running`, `paused`, `prelaunch`, `shutdown`, `inmigrate`, ... (qapi/run-state.json, `RunState`).
    pub status: String,
}

/// A version of QEMU; reply of [`QueryVersion`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Version {
    /// The numbers.
    pub qemu: VersionTriple,
    /// What the distribution says of it; may be empty.
    pub package: String,
}

/// The numbers of a version, which compare as versions do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct VersionTriple {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub micro: u32,
}

impl std::fmt::Display for VersionTriple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// One of the reply of [`QueryCommands`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct CommandInfo {
    /// The command's name.
    pub name: String,
}

/// Reply of [`AddFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct AddedFd {
    /// The set: `/dev/fdset/N`.
    pub fdset_id: u64,
    /// The descriptor's number in the server.
    pub fd: i32,
}

/// Reply of [`QueryMigrate`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Migration {
    /// `setup`, `active`, `completed`, `failed`, ... (qapi/migration.json, `MigrationStatus`); `None` if there was none.
    pub status: Option<String>,
    /// Why it failed.
    pub error_desc: Option<String>,
    /// How long it has taken so far, in milliseconds.
    pub total_time: Option<u64>,
}

/// One of the reply of [`QueryJobs`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it does, such as `snapshot-save`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `running`, `concluded`, ... (qapi/job.json, `JobStatus`).
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(command: &impl Serialize) -> String {
        serde_json::to_string(command).expect("commands serialize")
    }

    #[test]
    fn arguments_have_the_names_of_the_schema() {
        assert_eq!(json(&Cont), "null");
        assert_eq!(
            json(&SetLink {
                name: "nic0".into(),
                up: false
            }),
            r#"{"name":"nic0","up":false}"#
        );
        assert_eq!(
            json(&AddFd {
                fdset_id: Some(3),
                opaque: None
            }),
            r#"{"fdset-id":3}"#
        );
        assert_eq!(
            json(&AddFd {
                fdset_id: None,
                opaque: None
            }),
            "{}"
        );
        assert_eq!(
            json(&RemoveFd {
                fdset_id: 3,
                fd: Some(9)
            }),
            r#"{"fdset-id":3,"fd":9}"#
        );
        assert_eq!(
            json(&HumanMonitorCommand {
                command_line: "info network".into()
            }),
            r#"{"command-line":"info network"}"#
        );
        assert_eq!(
            json(&ObjectAdd::new("filter-dump", "dump0").property("maxlen", 96)),
            r#"{"qom-type":"filter-dump","id":"dump0","maxlen":96}"#
        );
    }

    #[test]
    fn versions_compare_as_versions_do() {
        let version = |major, minor, micro| VersionTriple { major, minor, micro };
        assert!(version(7, 2, 22) < version(8, 0, 0));
        assert!(version(7, 10, 0) > version(7, 2, 22));
        assert_eq!(version(7, 2, 22).to_string(), "7.2.22");
    }

    #[test]
    fn unknown_fields_of_a_reply_are_no_error() {
        let status: Status =
            serde_json::from_str(r#"{"status":"paused","singlestep":false,"running":false}"#)
                .expect("a reply of QEMU 7.2");
        assert_eq!(
            status,
            Status {
                running: false,
                status: "paused".into()
            }
        );
        let _: Empty = serde_json::from_str(r#"{"new":1}"#).expect("a reply of some later QEMU");
    }
}

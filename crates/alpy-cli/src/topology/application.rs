// SPDX-License-Identifier: GPL-3.0-or-later
//! An application of a topology file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alpy::docker::{Running, Tar};
use alpy::{TestResult, Testbed};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::files::{self, Kind};
use super::place::Source;

/// The environment of an imported root file system.
const PATH: &str = "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The capabilities of Linux 6.1, capabilities(7), without `CAP_`.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// A container in a node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplicationTable {
    /// The number of the node's link.
    #[schemars(with = "usize")]
    pub node: Spanned<usize>,
    /// Its name, for its output in the evidence.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// Its image. The engine has it, or can pull it, or `root` has its content.
    #[schemars(with = "String")]
    image: Spanned<String>,
    /// A tar file, relative to the topology file, with the root file system that the image is imported from, should the engine not have it.
    #[schemars(with = "Option<PathBuf>")]
    root: Option<Spanned<PathBuf>>,
    /// The command and its arguments: the image's own if not set.
    #[serde(default)]
    command: Vec<String>,
    /// Capabilities such as `NET_RAW`. A container has none that it is not given.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    capabilities: Vec<Spanned<String>>,
    /// Its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl ApplicationTable {
    /// Notes what is wrong with it alone.
    pub fn check(&self, source: &Source<'_>, folder: &Path) {
        let name = self.name.as_ref();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) {
            let text = format!(
                "application name {name:?} is not made of ASCII letters, digits, '.', '_' and '-' alone, or starts with a '.'"
            );
            source.mistake(self.name.span(), &text);
        }
        let image = self.image.as_ref();
        let is_part = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
                && part.bytes().all(is_plain)
        };
        if !image.split(['/', ':', '@']).all(is_part) {
            let text = format!("image name {image:?} does not read like registry.example/folder/name:tag");
            source.mistake(self.image.span(), &text);
        }
        if let Some(root) = &self.root {
            files::check(source, folder, "root", root, Kind::Tar);
        }
        for capability in &self.capabilities {
            let word = capability.as_ref().to_ascii_uppercase();
            if !CAPABILITIES.contains(&word.strip_prefix("CAP_").unwrap_or(&word)) {
                let text = format!(
                    "there is no capability {:?}; see capabilities(7)",
                    capability.as_ref()
                );
                source.mistake(capability.span(), &text);
            }
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains('=')) {
            let text = format!("`env`: {name:?} cannot be the name of a variable");
            source.mistake(self.name.span(), &text);
        }
    }

    /// Starts it in its node.
    pub async fn start(&self, bed: &Testbed, folder: &Path) -> TestResult<Running> {
        let image = self.image.as_ref();
        if let Some(root) = &self.root {
            if !bed.engine().image_present(image).await? {
                let text = format!("Import image {image} from {}", root.as_ref().display());
                let root = Tar::file(folder.join(root.as_ref()));
                alpy::step!(text, bed.engine().import_image(image, root, &[PATH])).await?;
            }
        }
        let node = bed.node(*self.node.as_ref());
        let mut container = node.application(self.name.as_ref(), image)?;
        if !self.command.is_empty() {
            container = container.command(&self.command);
        }
        for capability in &self.capabilities {
            container = container.capability(capability.as_ref());
        }
        for (name, value) in &self.env {
            container = container.env(name, value);
        }
        let start = container.start(bed.engine());
        let name = format!("Start {} in node {}", self.name.as_ref(), node.index());
        Ok(alpy::step!(name, start).await?)
    }
}

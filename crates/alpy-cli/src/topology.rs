// SPDX-License-Identifier: GPL-3.0-or-later
//! Topology files: a testbed, in the words of its builder.

mod link;
mod machine;
mod place;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use alpy::docker::{Running, Tar};
use alpy::{TestResult, Testbed, TestbedBuilder};
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use link::LinkTable;
use machine::MachineTable;
use place::Source;

use crate::failure::usage;
use crate::files;

/// An image that is imported has no other.
const PATH: &str = "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// A testbed for `alpy up`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Its name, and that of its evidence directory: letters, digits, `.`, `_` and `-`.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    name: Spanned<String>,
    /// What it is for.
    description: Option<String>,
    /// The machines, counted from 0 in their order. Without any, there is one with nothing to boot from.
    #[serde(default)]
    #[schemars(with = "Vec<MachineTable>")]
    machine: Vec<Spanned<MachineTable>>,
    /// The links, counted from 0 in their order: each is the next NIC of its machine.
    #[serde(default)]
    #[schemars(with = "Vec<LinkTable>")]
    link: Vec<Spanned<LinkTable>>,
    /// Containers in the nodes, which are started with the machines.
    #[serde(default)]
    application: Vec<ApplicationTable>,
}

/// A container in a node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ApplicationTable {
    /// The number of the node's link.
    #[schemars(with = "usize")]
    node: Spanned<usize>,
    /// Its name, for its output in the evidence.
    name: String,
    /// Its image. The engine has it, or can pull it, or `root` has its content.
    image: String,
    /// A tar file, relative to the topology file, with the root file system that the image is imported from, should the engine not have it.
    root: Option<PathBuf>,
    /// The command and its arguments: the image's own if not set.
    #[serde(default)]
    command: Vec<String>,
    /// Capabilities such as `NET_RAW`. A container has none that it is not given.
    #[serde(default)]
    capabilities: Vec<String>,
    /// Its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// The schema of the files.
pub fn schema() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&schemars::schema_for!(Topology))
}

impl Topology {
    /// Reads a file and looks at every value.
    ///
    /// # Errors
    /// The file cannot be read; it is not right, in which case the error names lines and columns, and has an exit status of its own.
    pub fn read(path: &Path) -> Result<(Self, TestbedBuilder)> {
        let text = files::text(path).map_err(|error| usage(format!("{error:#}")))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<(Self, TestbedBuilder)> {
        let source = Source::new(path, text);
        let topology: Self = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            usage(source.shown(span.start, error.message()))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let builder = topology.builder(&source, folder);
        source.check()?;
        Ok((topology, builder))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_ref()
    }

    /// The testbed, which is of no use where the source has mistakes.
    fn builder(&self, source: &Source<'_>, folder: &Path) -> TestbedBuilder {
        let wrong = |span: Range<usize>, error: anyhow::Error| source.mistake(span, &format!("{error:#}"));
        let mut builder = Testbed::builder(self.name());
        // Behind what the builder finds wrong, it finds that and nothing else.
        let mut good = true;
        let mut check = |builder: &TestbedBuilder, span| {
            if good {
                good = builder.check().map_err(|error| wrong(span, error.into())).is_ok();
            }
        };
        check(&builder, self.name.span());
        if let Some(description) = &self.description {
            builder = builder.description(description);
        }
        for table in &self.machine {
            let machine = table.as_ref().machine(folder).and_then(|machine| {
                machine.check()?;
                Ok(machine)
            });
            // A link may be to it, right or wrong.
            let machine = machine.map_err(|error| wrong(table.span(), error));
            builder = builder.machine(machine.unwrap_or_default());
        }
        for table in &self.link {
            builder = table.as_ref().add_to(builder, source, table.span());
            check(&builder, table.span());
        }
        for application in &self.application {
            let node = *application.node.as_ref();
            let is_node = self.link.get(node).map(|link| link.as_ref().between.is_none());
            if is_node != Some(true) {
                let text =
                    format!("there is no node {node}: a link to a node has this number, counted from 0");
                source.mistake(application.node.span(), &text);
            }
        }
        builder
    }

    /// Starts the applications on a testbed that was made of this topology.
    pub async fn start_applications(&self, bed: &Testbed, folder: &Path) -> TestResult<Vec<Running>> {
        let mut running = Vec::new();
        for table in &self.application {
            if let Some(root) = &table.root {
                if !bed.engine().image_present(&table.image).await? {
                    let text = format!("Import image {} from {}", table.image, root.display());
                    let root = Tar::file(folder.join(root));
                    let import = bed.engine().import_image(&table.image, root, &[PATH]);
                    alpy::step!(text, import).await?;
                }
            }
            let node = bed.node(*table.node.as_ref());
            let mut container = node.application(&table.name, &table.image)?;
            if !table.command.is_empty() {
                container = container.command(&table.command);
            }
            for capability in &table.capabilities {
                container = container.capability(capability);
            }
            for (name, value) in &table.env {
                container = container.env(name, value);
            }
            let start = container.start(bed.engine());
            running.push(alpy::step!(format!("Start {} in node {}", table.name, node.index()), start).await?);
        }
        Ok(running)
    }
}

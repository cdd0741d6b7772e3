// SPDX-License-Identifier: GPL-3.0-or-later
//! Topology files: a testbed, in the words of its builder.

mod application;
mod files;
mod link;
mod machine;
mod place;
mod words;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use alpy::docker::Running;
use alpy::{TestResult, Testbed, TestbedBuilder};
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use application::ApplicationTable;
use link::LinkTable;
use machine::MachineTable;
use place::Source;
pub use words::in_words;

use crate::failure::usage;

/// A testbed for `alpy up`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Its name, and that of its evidence directory: letters, digits, `.`, `_` and `-`.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    name: Spanned<String>,
    /// What it is for.
    description: Option<String>,
    /// The machines, counted from 0 in their order. There is one at least.
    #[serde(default)]
    #[schemars(with = "Vec<MachineTable>", required, length(min = 1))]
    machine: Vec<Spanned<MachineTable>>,
    /// The links, counted from 0 in their order: each is the next NIC of its machine.
    #[serde(default)]
    #[schemars(with = "Vec<LinkTable>")]
    link: Vec<Spanned<LinkTable>>,
    /// Containers in the nodes, which are started with the machines.
    #[serde(default)]
    application: Vec<ApplicationTable>,
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
        let text = crate::files::text(path).map_err(|error| usage(format!("{error:#}")))?;
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
        // The builder stops at the first fault, and would repeat it for each part that comes after it.
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
        if self.machine.is_empty() {
            let text = "the topology has no machine; remedy: a table [[machine]], with what it boots from";
            source.mistake(self.name.span(), text);
        }
        for table in &self.machine {
            let machine = table.as_ref().machine(source, folder, table.span());
            // A link may be to it, right or wrong.
            builder = builder.machine(machine);
        }
        for table in &self.link {
            builder = table.as_ref().add_to(builder, source, table.span());
            check(&builder, table.span());
        }
        let mut names = BTreeSet::new();
        for application in &self.application {
            let node = *application.node.as_ref();
            let is_node = self.link.get(node).map(|link| link.as_ref().between.is_none());
            if is_node != Some(true) {
                let text =
                    format!("there is no node {node}: a link to a node has this number, counted from 0");
                source.mistake(application.node.span(), &text);
            }
            application.check(source, folder);
            if !names.insert(application.name.as_ref()) {
                let text = format!("a second application is called {:?}", application.name.as_ref());
                source.mistake(application.name.span(), &text);
            }
        }
        builder
    }

    /// Starts the applications on a testbed that was made of this topology.
    pub async fn start_applications(&self, bed: &Testbed, folder: &Path) -> TestResult<Vec<Running>> {
        let mut running = Vec::new();
        for application in &self.application {
            running.push(application.start(bed, folder).await?);
        }
        Ok(running)
    }
}

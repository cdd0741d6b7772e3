// SPDX-License-Identifier: GPL-3.0-or-later
//! What the parts of one run share: its engine, its names, and where its containers' output goes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alpy_docker::{Container, Engine, Stream};

use crate::error::{Error, Result};
use crate::helper::Images;

/// The label that every container of a run has; its value is the run's id.
pub const LABEL: &str = "alpy.run";

/// How long a start or a removal in the background may take before a sweep.
const SETTLE: Duration = Duration::from_secs(10);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One run of a test.
#[derive(Debug)]
pub(crate) struct Run {
    engine: Engine,
    images: Images,
    test: String,
    id: String,
    /// The folder for the containers' output, if it is kept.
    containers: Option<PathBuf>,
    names: Mutex<HashMap<String, u32>>,
}

impl Run {
    /// A run with an id that no other run on this engine has.
    pub(crate) fn new(engine: Engine, images: Images, test: &str, evidence: Option<&Path>) -> Result<Self> {
        let containers = evidence.map(|dir| dir.join("containers"));
        if let Some(dir) = &containers {
            fs::create_dir(dir).map_err(|source| Error::Evidence {
                dir: dir.clone(),
                source,
            })?;
        }
        // A process id may come again, in a container or after a reboot, while an engine still has the other's containers.
        let random =
            fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|source| Error::Evidence {
                dir: "/proc/sys/kernel/random/uuid".into(),
                source,
            })?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{count}-{}", std::process::id(), &random[..8]);
        Ok(Self {
            engine,
            images,
            test: test.to_owned(),
            id,
            containers,
            names: Mutex::default(),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// A container of this run: named, labelled, its output kept as `containers/<name>.stdout` and `.stderr`.
    pub(crate) fn container(&self, name: &str, image: &str) -> Result<Container> {
        let name = self.unique(name);
        let container = Container::new(image)
            .name(format!("alpy-{}-{}-{name}", self.test, self.id))
            .label(LABEL, &self.id)
            .label("alpy.test", &self.test);
        let Some(dir) = &self.containers else {
            return Ok(container);
        };
        let create = |stream: &str| {
            let file = dir.join(format!("{name}.{stream}"));
            File::create_new(&file)
                .map(Mutex::new)
                .map_err(|source| Error::Evidence { dir: file, source })
        };
        let (stdout, stderr) = (create("stdout")?, create("stderr")?);
        let status = dir.join(format!("{name}.status"));
        Ok(container
            .on_output(move |stream, bytes| {
                let file = match stream {
                    Stream::Stdout => &stdout,
                    Stream::Stderr => &stderr,
                };
                report(
                    file.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .write_all(bytes),
                    "output",
                );
            })
            .on_end(move |end| report(fs::write(&status, format!("{end}\n")), "status")))
    }

    /// Removes the containers of this run that are still there.
    pub(crate) async fn sweep(&self) -> Result<()> {
        // What a dropped future has asked for may be coming yet.
        if !self.engine.settled(SETTLE).await {
            tracing::debug!("containers are still being started or removed");
        }
        for container in self
            .engine
            .remove_labelled(&format!("{LABEL}={}", self.id))
            .await?
        {
            tracing::debug!(container, "removed a container that was left");
        }
        Ok(())
    }

    /// The name, or the name with a number where the run had it before.
    fn unique(&self, name: &str) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let count = names.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            name.to_owned()
        } else {
            format!("{name}.{count}")
        }
    }
}

fn report(result: io::Result<()>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot write a container's {what} to the evidence");
    }
}

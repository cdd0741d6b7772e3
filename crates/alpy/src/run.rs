// SPDX-License-Identifier: GPL-3.0-or-later
//! What the parts of one run share: its engine, its names, and where its containers' output goes.

use std::collections::HashMap;
use std::env;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use alpy_docker::{Container, Engine, Stream};
use alpy_netns::{Guardian, InterfaceName};
use tempfile::TempDir;

use crate::control::folder_name;
use crate::error::{Error, Result};
use crate::helper::Images;
use crate::report;

/// The label that every container of a run has; its value is the run's id.
pub const LABEL: &str = "alpy.run";

/// How long a start or a removal in the background may take before a sweep.
const SETTLE: Duration = Duration::from_secs(10);

/// How long the guardian may take to end.
const DISMISS: Duration = Duration::from_secs(10);

/// How exactly it is known when a container has written something, in seconds, and how many such times are kept of each stream.
const BETWEEN_TIMES: f64 = 0.01;
const TIMES: usize = 10_000;

/// How many containers are recorded.
const RECORDED: usize = 1000;

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
    recorded: Recorded,
    // In the order of dropping: the guardian has nothing to do where there is no folder any more.
    scratch: TempDir,
    /// Removes what this process leaves if it is killed. `None` once all is removed.
    guardian: Mutex<Option<Guardian>>,
}

impl Run {
    /// A run with an id that no other run on this engine has, and with the images that it needs.
    pub(crate) async fn begin(
        engine: Engine,
        test: &str,
        evidence: Option<&Path>,
        node_image: Option<String>,
        iproute2_image: Option<String>,
    ) -> Result<Self> {
        let containers = evidence.map(|dir| dir.join("containers"));
        if let Some(dir) = &containers {
            fs::create_dir(dir).map_err(|source| Error::Evidence {
                dir: dir.clone(),
                source,
            })?;
        }
        let id = new_id()?;
        let guardian = Guardian::start(test).map_err(Error::Guardian)?;
        guardian
            .containers(&engine.socket(), &format!("{LABEL}={id}"))
            .map_err(Error::Guardian)?;
        // Among the evidence, so that whatever happens the next run removes it.
        let scratch = scratch(
            &evidence.map_or_else(env::temp_dir, Path::to_owned),
            &id,
            &guardian,
        )?;
        let images = match Images::prepare(&engine, node_image, iproute2_image, scratch.path()).await {
            Ok(images) => images,
            Err(error) => {
                drop(scratch);
                // Nothing else is there yet, and whether it ends well matters less than why there is no run.
                let _ = guardian.dismiss(DISMISS).await;
                return Err(error);
            }
        };
        Ok(Self {
            engine,
            images,
            test: test.to_owned(),
            id,
            containers,
            names: Mutex::default(),
            recorded: Recorded::default(),
            scratch,
            guardian: Mutex::new(Some(guardian)),
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

    /// The folder of the run, which goes with it and which nobody else enters.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// A container of this run: named, labelled, its output kept as `containers/<name>.stdout` and `.stderr`.
    pub(crate) fn container(&self, name: &str, image: &str) -> Result<Container> {
        let name = self.unique(name);
        let container = Container::new(image)
            .name(container_name(&self.test, &self.id, &name))
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
        let write_status = move |end: String| File::create_new(&status)?.write_all(end.as_bytes());
        let place = self.recorded.begin(&name, image);
        let (heard, ended) = (self.recorded.clone(), self.recorded.clone());
        Ok(container
            .on_output(move |stream, bytes| {
                heard.output(place, stream, bytes.len());
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
            .on_end(move |end| {
                ended.end(place);
                report(write_status(format!("{end}\n")), "status");
            }))
    }

    /// The containers so far, for the report.
    pub(crate) fn containers(&self) -> Vec<report::Container> {
        let all = self.recorded.lock();
        all.iter().map(|(container, _)| container.clone()).collect()
    }

    /// A file in the folder of the run, which goes with it. Containers may write to it, whoever they run as; nobody else enters
    /// the folder.
    pub(crate) fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let file = self.scratch.path().join(name);
        let write = || {
            fs::write(&file, content)?;
            fs::set_permissions(&file, Permissions::from_mode(0o666))
        };
        write().map_err(Error::Scratch)?;
        Ok(file)
    }

    /// Has the guardian remove a tap that is about to be made in the host's namespace.
    pub(crate) fn guard_tap(&self, name: &InterfaceName) -> Result<()> {
        let guardian = self.guardian.lock().unwrap_or_else(PoisonError::into_inner);
        guardian
            .as_ref()
            .map_or(Ok(()), |guardian| guardian.tap(name))
            .map_err(Error::Guardian)
    }

    /// Has the guardian remove a folder that is about to be made, if it is still there at the end.
    pub(crate) fn guard_folder(&self, folder: &Path) -> Result<()> {
        let guardian = self.guardian.lock().unwrap_or_else(PoisonError::into_inner);
        guardian
            .as_ref()
            .map_or(Ok(()), |guardian| guardian.folder(folder))
            .map_err(Error::Guardian)
    }

    /// Removes the containers of this run that are still there, its folder, and then the guardian. Where a container cannot be
    /// removed, the guardian goes on trying when the run is dropped.
    pub(crate) async fn close(&self) -> Result<()> {
        self.sweep().await?;
        match fs::remove_dir_all(self.scratch.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::Scratch(error)),
            _ => {}
        }
        let guardian = self
            .guardian
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match guardian {
            Some(guardian) => guardian.dismiss(DISMISS).await.map_err(Error::Guardian),
            None => Ok(()),
        }
    }

    async fn sweep(&self) -> Result<()> {
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

/// A container, and how many bytes it has written to each of its streams.
type Written = (report::Container, [u64; 2]);

/// When the containers have written what, and ended.
#[derive(Debug, Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Written>>>);

impl Recorded {
    fn lock(&self) -> MutexGuard<'_, Vec<Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a container that is about to start; one of too many has none there.
    fn begin(&self, name: &str, image: &str) -> usize {
        let mut all = self.lock();
        let place = all.len();
        if place < RECORDED {
            let container = report::Container {
                name: name.to_owned(),
                image: image.to_owned(),
                asked: report::seconds(SystemTime::now()),
                ..report::Container::default()
            };
            all.push((container, [0, 0]));
            return place;
        }
        RECORDED
    }

    fn output(&self, place: usize, stream: Stream, length: usize) {
        let mut all = self.lock();
        let Some((container, written)) = all.get_mut(place) else {
            return;
        };
        let (times, written) = match stream {
            Stream::Stdout => (&mut container.stdout, &mut written[0]),
            Stream::Stderr => (&mut container.stderr, &mut written[1]),
        };
        let now = report::seconds(SystemTime::now());
        if times.len() < TIMES && times.last().is_none_or(|(_, last)| now - last >= BETWEEN_TIMES) {
            times.push((*written, now));
        }
        *written += length as u64;
    }

    fn end(&self, place: usize) {
        if let Some((container, _)) = self.lock().get_mut(place) {
            container.ended = Some(report::seconds(SystemTime::now()));
        }
    }
}

/// What the engine knows a container of a run by.
pub(crate) fn container_name(test: &str, id: &str, name: &str) -> String {
    format!("alpy-{test}-{id}-{name}")
}

fn new_id() -> Result<String> {
    const RANDOM: &str = "/proc/sys/kernel/random/uuid";
    // A process id may come again, in a container or after a reboot, while an engine still has the other's containers.
    let random = fs::read_to_string(RANDOM).map_err(|source| Error::Evidence {
        dir: RANDOM.into(),
        source,
    })?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{}-{count}-{}", std::process::id(), &random[..8]))
}

/// A folder of this user's alone, which the guardian knows of before it is there.
fn scratch(parent: &Path, id: &str, guardian: &Guardian) -> Result<TempDir> {
    let name = folder_name(id);
    guardian.folder(&parent.join(&name)).map_err(Error::Guardian)?;
    let mut folder = tempfile::Builder::new();
    folder
        .prefix(&name)
        .rand_bytes(0)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(Error::Scratch)
}

fn report(result: io::Result<()>, what: &str) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot write a container's {what} to the evidence");
    }
}

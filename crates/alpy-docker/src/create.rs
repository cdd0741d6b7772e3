// SPDX-License-Identifier: GPL-3.0-or-later
//! From a [`Container`] to a container that exists, with its guard.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, Mount, MountType, ResourcesUlimits,
};
use bollard::query_parameters::CreateContainerOptions;

use crate::container::Bind;
use crate::engine::check_name;
use crate::image::check_image;
use crate::under_way::UnderWay;
use crate::{Container, Engine, Error, Result};

/// Creates the container.
pub(crate) async fn create(engine: &Engine, spec: &Container) -> Result<Guard> {
    check(spec)?;
    let Container { image, name, .. } = spec;
    let step = format!("create {}", spec.title());
    let options = CreateContainerOptions {
        name: name.clone(),
        platform: String::new(),
    };
    let mut body = body(spec, engine.most_open_files());
    if engine.info().podman {
        let env = body.env.get_or_insert_default();
        for_podman(engine, spec, &step, body.host_config.get_or_insert_default(), env).await?;
    }
    if engine.info().remapped {
        body.host_config.get_or_insert_default().userns_mode = Some("host".to_owned());
    }
    let created = engine.docker.create_container(Some(options), body);
    match engine.ask(&step, created).await {
        Ok(answer) => Ok(Guard::new(engine, answer.id)),
        Err(Error::Refused {
            status: 404, reason, ..
        }) if reason.to_lowercase().contains("image") => Err(Error::ImageAbsent { image: image.clone() }),
        // Docker says 409, Podman 500.
        Err(Error::Refused { reason, .. }) if reason.contains("already in use") => Err(Error::NameTaken {
            name: name.clone().unwrap_or_default(),
        }),
        Err(error) => Err(hidden(spec, error)),
    }
}

/// The error, as [`Error::NotShared`] if the engine does not see a bind's source that is there for this process.
pub(crate) fn hidden(spec: &Container, error: Error) -> Error {
    let (Error::Refused { reason, .. } | Error::StartFailed { reason, .. }) = &error else {
        return error;
    };
    let says = reason.to_lowercase();
    let unseen = ["does not exist", "no such file", "permission denied"]
        .iter()
        .any(|words| says.contains(words));
    let named = |source: &Path| source.to_str().is_some_and(|source| reason.contains(source));
    let mut sources = spec.binds.iter().map(|bind| &bind.source);
    match sources.find(|source| unseen && named(source) && source.exists()) {
        Some(path) => Error::NotShared {
            path: path.clone(),
            reason: reason.clone(),
        },
        None => error,
    }
}

fn check(spec: &Container) -> Result<()> {
    check_image(&spec.image)?;
    if let Some(name) = &spec.name {
        check_name("container name", name)?;
    }
    let paths = spec
        .binds
        .iter()
        .flat_map(|bind| [&bind.source, &bind.target])
        .chain(&spec.devices);
    for path in paths {
        let why = match path.to_str() {
            Some(_) if path.is_absolute() => continue,
            Some(_) => "it must be absolute",
            None => "it must be UTF-8, for the engine's API takes no other path",
        };
        return Err(Error::Invalid {
            what: "path",
            value: path.display().to_string(),
            why,
        });
    }
    Ok(())
}

/// The body of the request, see `ContainerCreate` in the Docker Engine API.
fn body(spec: &Container, most_open_files: u64) -> ContainerCreateBody {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let device = |path: &PathBuf| DeviceMapping {
        path_on_host: Some(text(path)),
        path_in_container: Some(text(path)),
        cgroup_permissions: Some("rwm".to_owned()),
    };
    // A mount of type bind wants its source to exist; the older `Binds` makes an empty folder instead.
    let mount = |bind: &Bind| Mount {
        typ: Some(MountType::BIND),
        source: Some(text(&bind.source)),
        target: Some(text(&bind.target)),
        read_only: Some(bind.read_only),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.command.clone(),
        env: Some(spec.env.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        attach_stdin: Some(spec.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin),
        network_disabled: Some(spec.bare_network),
        // The image's own would run in the middle of a test, and send on the wire if it tests a service.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        host_config: Some(HostConfig {
            auto_remove: Some(spec.auto_remove),
            network_mode: Some(spec.network.clone()),
            pid_mode: spec.pid_mode.clone(),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(spec.capabilities.clone()),
            security_opt: (!spec.new_privileges).then(|| vec!["no-new-privileges".to_owned()]),
            devices: Some(spec.devices.iter().map(device).collect()),
            mounts: Some(spec.binds.iter().map(mount).collect()),
            tmpfs: Some(
                spec.tmpfs
                    .iter()
                    .map(|path| (path.clone(), String::new()))
                    .collect(),
            ),
            readonly_rootfs: Some(spec.read_only_root),
            init: Some(spec.init),
            sysctls: Some(spec.sysctls.clone().into_iter().collect()),
            memory: spec.memory_mib.map(|mib| i64::from(mib) << 20),
            pids_limit: spec.processes.map(i64::from),
            ulimits: Some(vec![open_files(spec, most_open_files)]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The limits of open files. An engine that systemd starts has none, and hands down a billion: daemons that close all descriptors
/// at their start, or that have a table of them, then take minutes and gigabytes.
fn open_files(spec: &Container, most: u64) -> ResourcesUlimits {
    let soft = u64::from(spec.open_files).min(most);
    let number = |limit: u64| Some(i64::try_from(limit).unwrap_or(i64::MAX));
    ResourcesUlimits {
        name: Some("nofile".to_owned()),
        soft: number(soft),
        hard: number(soft.max(MOST_OPEN_FILES.min(most))),
    }
}

/// To what a program may raise its limit of open files: what systemd gives to services.
const MOST_OPEN_FILES: u64 = 524_288;

/// What Podman would understand in another way than Docker.
async fn for_podman(
    engine: &Engine,
    spec: &Container,
    step: &str,
    host: &mut HostConfig,
    env: &mut Vec<String>,
) -> Result<()> {
    // It makes the folder, even for a mount.
    if let Some(bind) = spec
        .binds
        .iter()
        .find(|bind| matches!(bind.source.try_exists(), Ok(false)))
    {
        return Err(Error::Invalid {
            what: "path",
            value: bind.source.display().to_string(),
            why: "it must exist",
        });
    }
    // It hands the proxies of its own environment down to containers. An empty one is none.
    for name in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"] {
        for name in [name.to_owned(), name.to_uppercase()] {
            if !spec.env.iter().any(|set| set.split('=').next() == Some(&name)) {
                env.push(format!("{name}="));
            }
        }
    }
    // It keeps a container that has ended, auto-remove or not, while another one that shares its namespaces is there, so that
    // the node would stay which ends together with its applications. By their paths they are the same namespaces.
    for (mode, kind) in [(&mut host.network_mode, "net"), (&mut host.pid_mode, "pid")] {
        let Some(container) = mode.as_deref().and_then(|mode| mode.strip_prefix("container:")) else {
            continue;
        };
        check_name("container", container)?;
        let pid = engine.state(step, container).await?["Pid"]
            .as_u64()
            .filter(|&pid| pid != 0);
        let pid = pid.ok_or_else(|| Error::NotRunning {
            container: container.to_owned(),
        })?;
        *mode = Some(format!("ns:/proc/{pid}/ns/{kind}"));
    }
    Ok(())
}

/// Sees to it that a container that exists is removed, whatever becomes of the one who holds it.
///
/// Dropping it neither blocks nor needs a runtime, which may be ending at that moment: a thread sends the one request.
#[derive(Debug)]
pub(crate) struct Guard {
    socket: PathBuf,
    id: String,
    armed: bool,
    under_way: UnderWay,
}

impl Guard {
    fn new(engine: &Engine, id: String) -> Self {
        Self {
            socket: engine.socket(),
            id,
            armed: true,
            under_way: engine.under_way.clone(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The container is gone: nothing to do any more.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (socket, id) = (std::mem::take(&mut self.socket), std::mem::take(&mut self.id));
        tracing::debug!(id, "a container was dropped: remove it in the background");
        let counted = self.under_way.count();
        let remove = move || {
            match remove_now(&socket, &id) {
                Ok(answer) => tracing::debug!(id, answer, "asked the engine to remove a dropped container"),
                Err(error) => tracing::debug!(id, %error, "cannot remove a dropped container"),
            }
            drop(counted);
        };
        if let Err(error) = std::thread::Builder::new()
            .name("alpy-remove".to_owned())
            .spawn(remove)
        {
            tracing::debug!(%error, "cannot start a thread to remove a dropped container");
        }
    }
}

/// The request to remove a container, in plain HTTP. Returns the first line of the answer.
fn remove_now(socket: &Path, id: &str) -> io::Result<String> {
    const LIMIT: Duration = Duration::from_secs(30);
    let mut engine = UnixStream::connect(socket)?;
    engine.set_read_timeout(Some(LIMIT))?;
    engine.set_write_timeout(Some(LIMIT))?;
    let request =
        format!("DELETE /containers/{id}?force=1&v=1 HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n");
    engine.write_all(request.as_bytes())?;
    let mut answer = String::new();
    engine.take(4096).read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

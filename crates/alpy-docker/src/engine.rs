// SPDX-License-Identifier: GPL-3.0-or-later
//! The engine: found, asked, swept.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use alpy_engine_address::{self as address, Candidate, FoundBy, LIMIT, Reason};
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptions, RemoveContainerOptions, WaitContainerOptions};
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::time::timeout;

use crate::plain::{encode, get, ping};
use crate::under_way::UnderWay;
use crate::{Container, Error, Result};

/// What an engine tells of its containers, one after another.
pub(crate) type Events = BoxStream<'static, EventResult>;

type EventResult = Result<EventMessage, bollard::errors::Error>;

/// A container engine: Docker, or one that speaks its language. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    pub(crate) request_limit: Duration,
    pub(crate) under_way: UnderWay,
    info: Arc<EngineInfo>,
    /// The process at the other end of the socket.
    pid: Option<i32>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineInfo {
    /// Its address, such as `unix:///var/run/docker.sock`.
    pub address: String,
    /// What named the address: "DOCKER_HOST", "Docker context NAME", "usual socket" or "the caller".
    pub found_by: String,
    /// Its version, such as `20.10.24`.
    pub version: String,
    /// The newest API version that it speaks, such as `1.41`.
    pub api_version: String,
    /// It runs without root's rights.
    pub rootless: bool,
    /// It gives each container a user namespace of its own (dockerd's `userns-remap`). This crate runs its containers in the host's, as with
    /// `--userns=host`, because a process in one namespace has no rights over the network of another one.
    pub remapped: bool,
    /// It is Podman, whose differences from Docker this crate bridges.
    pub podman: bool,
}

/// What an engine says of a container in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels, with their values.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub running: bool,
    /// When it was created, in seconds since 1970.
    pub created: u64,
}

impl ContainerInfo {
    /// What the engine says of one in `GET /containers/json`; nothing if it is not that.
    pub fn new(container: &Value) -> Option<Self> {
        let labels = container["Labels"].as_object().into_iter().flatten();
        Some(Self {
            id: container["Id"].as_str()?.to_owned(),
            name: container["Names"][0]
                .as_str()
                .unwrap_or_default()
                .trim_start_matches('/')
                .to_owned(),
            labels: labels
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            running: container["State"] == "running",
            created: container["Created"].as_u64().unwrap_or_default(),
        })
    }
}

impl Engine {
    /// Finds the engine as the Docker CLI does: `DOCKER_HOST`, else the context that `DOCKER_CONTEXT` or
    /// `~/.docker/config.json` names, else the usual sockets, Docker's before Podman's, the first that answers.
    ///
    /// Cancel safe. Each place has 5 seconds to answer.
    ///
    /// # Errors
    /// [`Error::NoEngine`], which lists what was tried and why each failed.
    pub async fn connect() -> Result<Self> {
        Self::first_of(address::candidates()?).await
    }

    /// The engine at an address such as `unix:///run/user/1000/docker.sock`. Cancel safe.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_to(address: &str) -> Result<Self> {
        Self::first_of(vec![address::candidate(FoundBy::Caller, address)?]).await
    }

    async fn first_of(candidates: Vec<Candidate>) -> Result<Self> {
        let mut tried = Vec::new();
        for candidate in candidates {
            match greet(&candidate).await {
                Ok(engine) => {
                    tracing::debug!(info = ?engine.info, "connected to the engine");
                    return Ok(engine);
                }
                Err(reason) => tried.push(candidate.attempt(reason)),
            }
        }
        Err(address::Error::of(tried).into())
    }

    /// Sets how long one request may take: 30 seconds if not set. Making images has 10 minutes instead.
    pub fn request_limit(mut self, limit: Duration) -> Self {
        self.request_limit = limit;
        self
    }

    /// Waits until no container of this engine and its clones is being started or removed in the background, as after futures
    /// that were dropped; false if that does not happen within the time. What is there then is all that will be there.
    ///
    /// Cancel safe.
    pub async fn settled(&self, within: Duration) -> bool {
        self.under_way.none(within).await
    }

    /// What the engine said of itself when it was connected.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// To how many open files a container's limit can be raised: the engine's own hard limit. Only `CAP_SYS_RESOURCE` in the host's user
    /// namespace allows more, and even root's engine may lack it, for example in a container.
    pub(crate) fn most_open_files(&self) -> u64 {
        let of = |process: &str| {
            let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
            hard_limit_of_files(&limits)
        };
        let engine = self.pid.and_then(|pid| of(&pid.to_string()));
        // The user's own processes have the same limit as a rule.
        engine.or_else(|| of("self")).unwrap_or(1024)
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.info.address.trim_start_matches("unix://").into()
    }

    /// Checks that the engine sees this folder, so that it can mount it into containers. An engine in another container or on another
    /// machine does not; nor does one that may not enter the folder. Creates no container. Cancel safe.
    ///
    /// Podman does not tell: `Ok`, and the first container with a mount fails.
    ///
    /// # Errors
    /// [`Error::NotShared`], and the engine's own.
    pub async fn check_shares(&self, folder: &Path) -> Result<()> {
        // Docker looks at the mounts before it looks for the image.
        let nothing = Container::new("alpy-no-such-image:none").bind(folder, "/mnt");
        match crate::create::create(self, &nothing).await {
            Ok(_) | Err(Error::ImageAbsent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The ids of the containers, running or not, that carry a label: `name` or `name=value`. Cancel safe.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn labelled(&self, label: &str) -> Result<Vec<String>> {
        let containers = self.containers(label).await?;
        Ok(containers.into_iter().map(|container| container.id).collect())
    }

    /// The containers, running or not, that carry a label: `name` or `name=value`. Cancel safe.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn containers(&self, label: &str) -> Result<Vec<ContainerInfo>> {
        let filters = serde_json::json!({"label": [label]}).to_string();
        let path = format!("/containers/json?all=1&filters={}", encode(&filters));
        let step = format!("list the containers labelled {label}");
        let list = self.ask(&step, get(&self.socket(), &path)).await?;
        let list = list.as_array().into_iter().flatten();
        Ok(list.filter_map(ContainerInfo::new).collect())
    }

    /// What the engine knows of a container's state: `State` of `GET /containers/{id}/json`.
    pub(crate) async fn state(&self, step: &str, container: &str) -> Result<Value> {
        let path = format!("/containers/{container}/json");
        let mut answer = self.ask(step, get(&self.socket(), &path)).await?;
        Ok(answer["State"].take())
    }

    /// Kills and removes all containers that carry a label: `name` or `name=value`. Returns their ids.
    ///
    /// Cancel safe in that it can be called again.
    ///
    /// # Errors
    /// The first one, after all were tried.
    pub async fn remove_labelled(&self, label: &str) -> Result<Vec<String>> {
        let ids = self.labelled(label).await?;
        let removals: Vec<_> = ids.iter().map(|id| self.remove(id)).collect();
        let results: Vec<Result<()>> = stream::iter(removals).buffer_unordered(8).collect().await;
        results.into_iter().collect::<Result<()>>()?;
        Ok(ids)
    }

    /// Kills and removes a container by name or id. One that is not there is fine. Cancel safe in that it can be called again.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn remove(&self, container: &str) -> Result<()> {
        check_name("container", container)?;
        let step = format!("remove container {container}");
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            link: false,
        };
        match self
            .ask(&step, self.docker.remove_container(container, Some(options)))
            .await
        {
            Ok(()) | Err(Error::Refused { status: 404, .. }) => {}
            // Somebody else is at it, the engine itself for example: see it through.
            Err(Error::Refused { status: 409, .. }) => self.wait_removed(container, &step).await?,
            Err(error) => return Err(error),
        }
        tracing::debug!(container, "removed");
        Ok(())
    }

    async fn wait_removed(&self, container: &str, step: &str) -> Result<()> {
        let options = WaitContainerOptions {
            condition: "removed".to_owned(),
        };
        let mut answers = pin!(self.docker.wait_container(container, Some(options)));
        let removed = async {
            match answers.next().await {
                // bollard makes an error of an exit code other than 0; here it is good news like any other.
                None | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => Ok(()),
                Some(Err(error)) => Err(error),
            }
        };
        match self.ask(step, removed).await {
            Err(Error::Refused { status: 404, .. }) => Ok(()),
            other => other,
        }
    }

    /// Waits until a container, named by name or id and started by whomever, is running. It need not exist yet. Cancel safe.
    ///
    /// There is no polling: the engine is asked once, and then again at each start that it reports. It replays the starts of
    /// before the question, so none falls between.
    ///
    /// # Errors
    /// [`Error::Timeout`], or those of the engine.
    pub async fn wait_running(&self, container: &str, within: Duration) -> Result<()> {
        check_name("container", container)?;
        let step = format!("wait until container {container} runs");
        let mut events = pin!(self.events(container, &["start"]));
        let running = async {
            loop {
                match self.state(&step, container).await {
                    Ok(state) if state["Running"] == true => return Ok(()),
                    Ok(_) | Err(Error::Refused { status: 404, .. }) => {}
                    Err(error) => return Err(error),
                }
                match events.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(translate(&step, error)),
                    None => {
                        return Err(Error::Lost {
                            step: step.clone(),
                            reason: "the events ended".to_owned(),
                        });
                    }
                }
            }
        };
        timeout(within, running).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                step: step.clone(),
                after: within,
            })
        })
    }

    /// What happens to one container from its creation on. The engine keeps the latest events and replays those it has, so
    /// nothing is lost between the happening and the question. The stream is lazy: it asks when first polled.
    ///
    /// Podman may tell an event again: it ends the stream when it begins a new file of its log, and is then asked once more.
    pub(crate) fn events(&self, container: &str, kinds: &[&str]) -> Events {
        let filter = |name: &str, values: &[&str]| {
            (
                name.to_owned(),
                values.iter().copied().map(str::to_owned).collect(),
            )
        };
        let filters = [
            filter("type", &["container"]),
            filter("container", &[container]),
            filter("event", kinds),
        ];
        let options = EventsOptions {
            // Second 1 of 1970, whatever the engine's clock says.
            since: Some("1".to_owned()),
            until: None,
            filters: Some(HashMap::from(filters)),
        };
        let docker = self.docker.clone();
        let ask = move || docker.events(Some(options.clone())).boxed();
        if self.info.podman {
            again_and_again(ask).boxed()
        } else {
            ask()
        }
    }

    /// One request, within the limit for requests.
    pub(crate) async fn ask<T>(
        &self,
        step: &str,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        ask_within(self.request_limit, step, request).await
    }
}

/// Asks for a stream once more whenever it ends, unless it has said nothing at all.
fn again_and_again(ask: impl Fn() -> Events + Send + 'static) -> impl Stream<Item = EventResult> + Send {
    let first = (ask(), false);
    stream::unfold((first, ask), |((mut events, mut heard), ask)| async move {
        loop {
            match events.next().await {
                Some(event) => return Some((event, ((events, true), ask))),
                None if heard => (events, heard) = (ask(), false),
                None => return None,
            }
        }
    })
}

/// One request, within a limit.
pub(crate) async fn ask_within<T>(
    limit: Duration,
    step: &str,
    request: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T> {
    match timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| translate(step, error)),
        Err(_) => Err(Error::Timeout {
            step: step.to_owned(),
            after: limit,
        }),
    }
}

/// An error of bollard's as one of ours.
pub(crate) fn translate(step: &str, error: bollard::errors::Error) -> Error {
    use bollard::errors::Error as Theirs;
    let step = step.to_owned();
    match error {
        Theirs::DockerResponseServerError { status_code, message } => Error::Refused {
            step,
            // Podman notices late that a container goes away, and then speaks of an error of its own.
            status: match status_code {
                500 if message.contains("no such container") => 404,
                status => status,
            },
            reason: message.trim().to_owned(),
        },
        Theirs::DockerStreamError { error } => Error::Refused {
            step,
            status: 200,
            reason: error.trim().to_owned(),
        },
        other => Error::Lost {
            step,
            reason: chain(&other),
        },
    }
}

/// An error's text with that of its sources, each once: hyper's own says no more than "client error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// The hard limit in a `/proc/PID/limits`, see proc(5).
fn hard_limit_of_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = line.split_whitespace().nth(1)?;
    if hard == "unlimited" {
        return Some(u64::MAX);
    }
    hard.parse().ok()
}

/// Refuses a name that would change the request's path.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::Invalid {
        what,
        value: name.to_owned(),
        why: "a letter or digit must come first, then letters, digits and any of _.-",
    })
}

/// Connects and asks who is there.
async fn greet(candidate: &Candidate) -> Result<Engine, Reason> {
    let socket = &candidate.socket;
    if socket.to_str().is_none() {
        return Err(Reason::Other("its path is not UTF-8".to_owned()));
    }
    let silent = |_| Reason::Silent(LIMIT);
    // A plain connection first: its error is an io::Error with a kind, where bollard's is prose.
    let stream = timeout(LIMIT, UnixStream::connect(socket))
        .await
        .map_err(silent)??;
    let peer = stream.peer_cred();
    let pid = peer.as_ref().ok().and_then(UCred::pid);
    let info = EngineInfo {
        address: candidate.address(),
        found_by: candidate.found_by.to_string(),
        version: String::new(),
        api_version: String::new(),
        rootless: peer.is_ok_and(|peer| peer.uid() != 0),
        remapped: false,
        podman: false,
    };
    timeout(LIMIT, introduce(socket, info, pid))
        .await
        .map_err(silent)?
        .map_err(|error| Reason::Other(chain(&error)))
}

async fn introduce(
    socket: &Path,
    mut info: EngineInfo,
    pid: Option<i32>,
) -> Result<Engine, bollard::errors::Error> {
    // bollard's own time-out is for the answer's head alone, in whole seconds: ours is what counts.
    const NEVER_SECONDS: u64 = 86_400;
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), NEVER_SECONDS, API_DEFAULT_VERSION)?;
    let greeting = ping(socket).await?;
    let docker = if let Some(version) = greeting.get("libpod-api-version") {
        // Podman takes a second and more for the answers below: it asks the package manager for the versions of its parts. And
        // it is not among its security options that it is rootless: whose socket it is tells that.
        info.podman = true;
        info.version.clone_from(version);
        info.api_version = greeting.get("api-version").cloned().unwrap_or_default();
        docker
    } else {
        // Each takes the engine some 10 ms.
        let (version, described) = tokio::try_join!(docker.version(), docker.info())?;
        info.version = version.version.unwrap_or_default();
        info.api_version = version.api_version.unwrap_or_default();
        let security = described.security_options.unwrap_or_default();
        let has = |name: &str| {
            let mut options = security.iter();
            options.any(|option| option.strip_prefix("name=").unwrap_or(option) == name)
        };
        (info.rootless, info.remapped) = (has("rootless"), has("userns"));
        match api_version(&info.api_version) {
            // bollard 0.21 does not send the version; the next one does, and an old engine then refuses what is too new for it.
            Some(older) if older < *API_DEFAULT_VERSION => {
                Docker::connect_with_unix(&socket.to_string_lossy(), NEVER_SECONDS, &older)?
            }
            _ => docker,
        }
    };
    Ok(Engine {
        docker,
        request_limit: Duration::from_secs(30),
        under_way: UnderWay::new(),
        info: Arc::new(info),
        pid,
    })
}

/// A version of the API as bollard has it, of a text such as `1.41`.
fn api_version(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion {
        major_version: major.parse().ok()?,
        minor_version: minor.parse().ok()?,
    })
}

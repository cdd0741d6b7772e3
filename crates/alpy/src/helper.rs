// SPDX-License-Identifier: GPL-3.0-or-later
//! The two containers that alpy itself runs: nodes, and one-off helpers for network settings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alpy_docker::{Container, Engine, Running};
use alpy_netns::{Answer, HELPER, HELPER_HASH, HELPER_PATH, Listener, Loan, Request, Session, image_tar};

use crate::error::{Error, Result};
use crate::run::Run;

/// How long a helper may take from its creation to its answer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Where the helper lies in an image of the caller's.
const MOUNTED: &str = "/run/alpy-netns-helper";

/// What nodes and helpers are made of: alpy's own image, FROM scratch, where the caller names no other.
#[derive(Debug)]
pub(crate) struct Images {
    node_image: Option<String>,
    iproute2_image: Option<String>,
    own: String,
    /// The folder that the sockets of the helpers are in, and the program for an image of the caller's.
    dir: PathBuf,
}

/// A one-off helper that has connected. Dropping it removes it in the background.
#[derive(Debug)]
pub(crate) struct Helper {
    name: String,
    running: Running,
    session: Session,
}

/// Where a helper does its work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a network namespace of its own: what it does is all in namespaces that are lent to it.
    Alone,
    /// In the network namespace of a node, by its container's id.
    Node(&'a str),
    /// In the host's network namespace, with the host's processes in sight.
    Host,
}

impl Images {
    /// Sees to it that the engine has what is needed.
    pub(crate) async fn prepare(
        engine: &Engine,
        node_image: Option<String>,
        iproute2_image: Option<String>,
        dir: &Path,
    ) -> Result<Self> {
        let own = format!("alpy-netns-helper:{HELPER_HASH}");
        if node_image.is_none() || iproute2_image.is_none() {
            let import = async || engine.import_image(&own, image_tar(), &[]).await;
            engine.ensure_image(&own, import).await?;
        }
        if node_image.is_some() || iproute2_image.is_some() {
            let program = program_in(dir);
            fs::write(&program, HELPER).map_err(Error::Scratch)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(Error::Scratch)?;
        }
        Ok(Self {
            node_image,
            iproute2_image,
            own,
            dir: dir.to_owned(),
        })
    }

    /// The socket for what runs in a container of alpy's.
    pub(crate) fn listener(&self, name: &str) -> Result<Listener> {
        Listener::bind_in(&self.dir).map_err(at(name))
    }

    /// A node's container: it lends its network namespace on the socket, then reads its input, which this process holds, and ends
    /// at the end of it.
    pub(crate) fn node(&self, run: &Run, name: &str, listener: &Listener) -> Result<Container> {
        let container = self.program(run, name, self.node_image.as_deref(), &Listener::HOLD_ARGUMENTS)?;
        Ok(with_socket(container, listener).bare_network().stdin())
    }

    /// Starts a one-off helper, which works off requests until it is told to end.
    pub(crate) async fn helper(&self, run: &Run, name: &str, place: Place<'_>) -> Result<Helper> {
        let listener = self.listener(name)?;
        let container = self.program(run, name, self.iproute2_image.as_deref(), &Listener::ARGUMENTS)?;
        let container = with_socket(container, &listener).capability("NET_ADMIN");
        let container = match place {
            Place::Alone => container.bare_network(),
            Place::Node(node) => container.network_of(node).pid_of(node),
            Place::Host => container.network_of_host().pid_of_host(),
        };
        let running = container.start(run.engine()).await?;
        let session = of_helper(name, &running, listener.accept(LIMIT)).await?;
        Ok(Helper {
            name: name.to_owned(),
            running,
            session,
        })
    }

    /// Runs a one-off helper that does what the request says.
    pub(crate) async fn run(
        &self,
        run: &Run,
        name: &str,
        place: Place<'_>,
        request: &Request,
    ) -> Result<Answer> {
        let mut helper = self.helper(run, name, place).await?;
        let answer = helper.run(request).await;
        helper.end_after(answer).await
    }

    /// A container of the helper executable: in alpy's own image, or mounted into one of the caller's.
    fn program(
        &self,
        run: &Run,
        name: &str,
        image: Option<&str>,
        arguments: &[&'static str],
    ) -> Result<Container> {
        let (container, program) = match image {
            Some(image) => {
                let container = run.container(name, image)?.no_entrypoint();
                (container.bind_read_only(program_in(&self.dir), MOUNTED), MOUNTED)
            }
            None => (run.container(name, &self.own)?, HELPER_PATH),
        };
        Ok(container
            .command([&[program], arguments].concat())
            .device("/dev/net/tun")
            .read_only_root())
    }
}

impl Helper {
    /// Has it do what the request says where it is.
    pub(crate) async fn run(&mut self, request: &Request) -> Result<Answer> {
        of_helper(&self.name, &self.running, self.session.run(request, LIMIT)).await
    }

    /// Has it do what the request says in a namespace that is lent to it.
    pub(crate) async fn run_on(&mut self, loan: Loan, request: &Request) -> Result<Answer> {
        let work = self.session.run_on(loan, request, LIMIT);
        of_helper(&self.name, &self.running, work).await
    }

    /// Closes the connection, at which it ends, and waits until the engine no longer knows it.
    pub(crate) async fn end(self) -> Result<()> {
        drop(self.session);
        let ended = self.running.wait(LIMIT).await;
        let removed = self.running.remove().await;
        ended?;
        Ok(removed?)
    }

    /// Ends it behind its last answer. One that has failed is not waited for.
    pub(crate) async fn end_after<T>(self, answer: Result<T>) -> Result<T> {
        match answer {
            Ok(answer) => {
                self.end().await?;
                Ok(answer)
            }
            Err(error) => {
                // Why it failed matters more.
                let _ = self.running.remove().await;
                Err(error)
            }
        }
    }
}

/// What a helper is asked for, unless it ends without a word on the socket: what it printed then says why.
async fn of_helper<T>(
    name: &str,
    running: &Running,
    work: impl Future<Output = alpy_netns::Result<T>>,
) -> Result<T> {
    tokio::select! {
        answer = work => {
            if let Err(alpy_netns::Error::HelperGone { .. }) = answer {
                // The engine may learn of its end a moment later. Its output says more than the lost connection.
                if let Ok(output) = running.wait(LIMIT).await {
                    output.success()?;
                }
            }
            answer.map_err(at(name))
        }
        output = running.wait(LIMIT) => {
            output?.success()?;
            Err(Error::HelperSilent { name: name.to_owned() })
        }
    }
}

fn with_socket(container: Container, listener: &Listener) -> Container {
    container.bind(listener.folder(), Listener::MOUNT_POINT)
}

pub(crate) fn at(name: &str) -> impl FnOnce(alpy_netns::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Helper { name, source }
}

/// Where the program lies for an image of the caller's.
fn program_in(dir: &Path) -> PathBuf {
    dir.join("helper")
}

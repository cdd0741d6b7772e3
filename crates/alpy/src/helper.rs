// SPDX-License-Identifier: GPL-3.0-or-later
//! The two containers that alpy itself runs: nodes, and one-off helpers for network settings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alpy_docker::{Container, Engine};
use alpy_netns::{Answer, HELPER, HELPER_HASH, HELPER_PATH, Listener, Request, image_tar};

use crate::error::{Error, Result};
use crate::run::Run;

/// How long a helper may take from its creation to its answer.
const LIMIT: Duration = Duration::from_secs(30);

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

/// Where a helper does its work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
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
        if iproute2_image.is_some() {
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

    /// A node's container: it reads its input, which this process holds, and ends at the end of it.
    pub(crate) fn node(&self, run: &Run, name: &str) -> Result<Container> {
        let container = match &self.node_image {
            Some(image) => run.container(name, image)?.no_entrypoint().command(["cat"]),
            None => run.container(name, &self.own)?.command([HELPER_PATH, "hold"]),
        };
        Ok(container.stdin().read_only_root())
    }

    /// Runs a one-off helper that does what the request says.
    pub(crate) async fn run(
        &self,
        run: &Run,
        name: &str,
        place: Place<'_>,
        request: &Request,
    ) -> Result<Answer> {
        let at = |source| Error::Helper {
            name: name.to_owned(),
            source,
        };
        let listener = Listener::bind_in(&self.dir).map_err(at)?;
        let (container, program) = match &self.iproute2_image {
            Some(image) => {
                let container = run.container(name, image)?.no_entrypoint();
                (container.bind_read_only(program_in(&self.dir), MOUNTED), MOUNTED)
            }
            None => (run.container(name, &self.own)?, HELPER_PATH),
        };
        let container = container
            .command([&[program], Listener::ARGUMENTS.as_slice()].concat())
            .bind(listener.folder(), Listener::MOUNT_POINT)
            .device("/dev/net/tun")
            .capability("NET_ADMIN")
            .read_only_root();
        let container = match place {
            Place::Node(node) => container.network_of(node).pid_of(node),
            Place::Host => container.network_of_host().pid_of_host(),
        };
        let running = container.start(run.engine()).await?;
        let work = async {
            let mut session = listener.accept(LIMIT).await?;
            session.run(request, LIMIT).await
        };
        let answer = tokio::select! {
            answer = work => answer.map_err(at),
            // It ended without a word on the socket: what it printed says why.
            output = running.wait(LIMIT) => {
                output?.success()?;
                Err(Error::HelperSilent { name: name.to_owned() })
            }
        };
        if answer.is_ok() {
            // It ends by itself, now that the connection is closed.
            running.wait(LIMIT).await?;
        }
        let removed = running.remove().await;
        let answer = answer?;
        removed?;
        Ok(answer)
    }
}

/// Where the program lies for an image of the caller's.
fn program_in(dir: &Path) -> PathBuf {
    dir.join("helper")
}

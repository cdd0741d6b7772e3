// SPDX-License-Identifier: GPL-3.0-or-later
//! The skeleton of a testbed: its nodes, and in each the tap of a link.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alpy_docker::Engine;
use alpy_netns::{Answer, InterfaceName, LinkChange, Loan, Namespace, Request};
use futures_util::future::{OptionFuture, join_all, try_join_all};

use crate::error::{Error, Result};
use crate::helper::{Helper, Place};
use crate::link::{Link, interface};
use crate::node::Node;
use crate::run::Run;
use crate::step;

/// How long a step may take where there is no test with a deadline.
const STEP: Duration = Duration::from_secs(120);

/// How the helper's error begins for a tap that is not there.
const NO_TAP: &str = "there is no link ";

/// All the nodes of a test, without a machine: for those who run QEMU in their own way.
///
/// A QEMU that inherits descriptors gets a tap for each link from [`SkeletonBuilder::start`]. One that opens taps by their names
/// needs [`SkeletonBuilder::start_with_named_taps`], and an engine that is not rootless.
///
/// Dropping a skeleton ends its nodes and applications in the background; [`Skeleton::close`] waits for that.
#[derive(Debug)]
pub struct Skeleton {
    pub(crate) nodes: Vec<Node>,
    pub(crate) run: Arc<Run>,
}

/// A skeleton to be.
#[derive(Debug)]
pub struct SkeletonBuilder {
    test: String,
    engine: Option<Engine>,
    /// Each with its number, which is that of its node.
    links: Vec<(usize, Link)>,
    node_image: Option<String>,
    iproute2_image: Option<String>,
}

/// Nodes, and taps in the host's namespace that a QEMU may now open by their names.
#[derive(Debug)]
pub struct NamedTaps {
    skeleton: Skeleton,
    links: Vec<(usize, Link)>,
    names: Vec<InterfaceName>,
    loans: Vec<Loan>,
}

/// Nodes, the taps in them, and the one-off helper that made the taps, which [`end`] waits for: not at once, for there is other
/// work to do.
pub(crate) type Started = (Vec<Node>, Vec<OwnedFd>, Option<Helper>);

impl Skeleton {
    /// A skeleton for the test of this name.
    pub fn builder(test: impl Into<String>) -> SkeletonBuilder {
        SkeletonBuilder {
            test: test.into(),
            engine: None,
            links: Vec::new(),
            node_image: None,
            iproute2_image: None,
        }
    }

    /// The nodes, in the order of the links.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The engine that the nodes run on.
    pub fn engine(&self) -> &Engine {
        self.run.engine()
    }

    async fn on_host(&self, what: &str, request: &Request) -> Result<Answer> {
        self.run.images().run(&self.run, what, Place::Host, request).await
    }

    /// The value of the label [`alpy.run`](crate::RUN_LABEL) that all containers of this skeleton have.
    pub fn run_id(&self) -> &str {
        self.run.id()
    }

    /// Ends the nodes and their applications and waits until the engine no longer knows them.
    ///
    /// Not cancel safe: what is not awaited is ended in the background.
    ///
    /// # Errors
    /// [`Error::NotClosed`] has all errors: an error does not stop it.
    pub async fn close(self) -> Result<()> {
        let closed = close(self.nodes, &self.run).await;
        closed.map_err(|errors| Error::NotClosed { errors })
    }
}

/// Ends nodes, and the run with all that is left of it. Goes on after an error and returns them all.
pub(crate) async fn close(
    nodes: impl IntoIterator<Item = Node>,
    run: &Run,
) -> std::result::Result<(), Vec<Error>> {
    let removed = join_all(nodes.into_iter().map(Node::remove)).await;
    // Applications with a process namespace of their own do not end with their node.
    let closed = run.close().await;
    all_of(removed.into_iter().chain([closed]))
}

/// The errors of all results; a success if there is none.
fn all_of(results: impl IntoIterator<Item = Result<()>>) -> std::result::Result<(), Vec<Error>> {
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors),
    }
}

impl SkeletonBuilder {
    /// One more link.
    pub fn link(mut self, link: Link) -> Self {
        self.links.push((self.links.len(), link));
        self
    }

    /// The engine to use, instead of the one that [`Engine::connect`] finds.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// An image to make nodes of, instead of alpy's own. What runs in it is alpy's own program.
    pub fn node_image(mut self, image: impl Into<String>) -> Self {
        self.node_image = Some(image.into());
        self
    }

    /// An image to run the network helper in, instead of alpy's own, which has nothing but the helper in it.
    pub fn iproute2_image(mut self, image: impl Into<String>) -> Self {
        self.iproute2_image = Some(image.into());
        self
    }

    /// Starts the nodes, each with its tap in it. The descriptors, in the order of the links, are for QEMU to inherit:
    /// `-netdev tap,id=link0,fd=N`.
    ///
    /// # Errors
    /// A value of a link is bad (before anything is touched), the engine or an image is missing, or a container cannot start. What
    /// was started is ended.
    ///
    /// Not cancel safe: what was started is ended in the background.
    pub async fn start(self) -> Result<(Skeleton, Vec<OwnedFd>)> {
        let run = self.new_run(None).await?;
        let (nodes, taps, helper) = start_in(&run, &self.links, STEP).await?;
        end(helper).await?;
        Ok((Skeleton { nodes, run }, taps))
    }

    /// Starts the nodes, and creates a tap for each link in the host's namespace, which the caller's user may open by name:
    /// `-netdev tap,id=link0,ifname=NAME,script=no,downscript=no,vnet_hdr=off`. [`NamedTaps::attach`] comes next.
    ///
    /// # Errors
    /// As [`start`](Self::start), and with a rootless engine: its host namespace is not the one that QEMU runs in.
    ///
    /// Not cancel safe: nodes that were started are ended, and taps removed, in the background.
    pub async fn start_with_named_taps(self) -> Result<NamedTaps> {
        let run = self.new_run(None).await?;
        if run.engine().info().rootless {
            return Err(Error::NamedTapsRootless);
        }
        let (nodes, loans) = start_nodes(&run, &self.links).await?;
        let skeleton = Skeleton { nodes, run };
        let owner = nix::unistd::geteuid().as_raw();
        // The random part of the run's id keeps the names apart; an interface name has 15 bytes.
        let random = skeleton.run.id().rsplit('-').next().unwrap_or_default();
        let names: std::result::Result<Vec<InterfaceName>, _> = (0..self.links.len())
            .map(|index| format!("a{random}{index}").parse())
            .collect();
        let names = names.map_err(|source| Error::Link { index: 0, source })?;
        names.iter().try_for_each(|name| skeleton.run.guard_tap(name))?;
        let taps = |request: Request, name: &InterfaceName| request.persistent_tap(name.clone(), owner);
        let request = names.iter().fold(Request::new(), taps);
        skeleton.on_host("create-taps", &request).await?;
        Ok(NamedTaps {
            skeleton,
            links: self.links,
            names,
            loans,
        })
    }

    /// Looks at every value before anything is touched.
    fn check(&self) -> Result<()> {
        self.links.iter().try_for_each(|(index, link)| link.check(*index))
    }

    /// A run on the engine, with the images that it needs.
    pub(crate) async fn new_run(&self, evidence: Option<&Path>) -> Result<Arc<Run>> {
        self.check()?;
        let engine = match &self.engine {
            Some(engine) => engine.clone(),
            None => Engine::connect().await?,
        };
        let (node, iproute2) = (self.node_image.clone(), self.iproute2_image.clone());
        Ok(Arc::new(
            Run::begin(engine, &self.test, evidence, node, iproute2).await?,
        ))
    }
}

impl NamedTaps {
    /// The names of the taps, in the order of the links.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(InterfaceName::as_str)
    }

    /// Moves each tap into its node, where it is `eth0` with the settings of its link. QEMU must have opened the taps by now.
    ///
    /// # Errors
    /// A helper container cannot run, or a tap is gone. Taps that are not moved are deleted.
    ///
    /// Not cancel safe: nodes and taps are removed in the background.
    pub async fn attach(mut self) -> Result<Skeleton> {
        if let Err(error) = self.move_taps().await {
            for error in self.delete_taps().await.err().into_iter().flatten() {
                tracing::warn!(%error, "a tap stays until its run is closed");
            }
            return Err(error);
        }
        Ok(self.skeleton)
    }

    /// Gives up: deletes the taps and ends the nodes.
    ///
    /// Not cancel safe: what is not awaited stays, or is ended in the background.
    ///
    /// # Errors
    /// As [`Skeleton::close`].
    pub async fn close(self) -> Result<()> {
        let deleted = self.delete_taps().await.err();
        let closed = close(self.skeleton.nodes, &self.skeleton.run).await.err();
        all_of(deleted.into_iter().chain(closed).flatten().map(Err))
            .map_err(|errors| Error::NotClosed { errors })
    }

    async fn move_taps(&mut self) -> Result<()> {
        let mut request = Request::new();
        for (node, name) in self.skeleton.nodes().iter().zip(&self.names) {
            let node = Namespace::Pid(node.pid().await?);
            request = request.link(LinkChange::of(name.clone()).name(interface()).namespace(node));
        }
        let loans = std::mem::take(&mut self.loans);
        let run = &self.skeleton.run;
        let mut helper = run.images().helper(run, "move-taps", Place::Host).await?;
        let moved = async {
            helper.run(&request).await?;
            for ((index, link), loan) in self.links.iter().zip(loans) {
                helper
                    .run_on(loan, &link.settings(*index, Request::new())?)
                    .await?;
            }
            Ok(())
        };
        let moved = moved.await;
        helper.end_after(moved).await
    }

    /// Deletes each tap that is still in the host's namespace.
    async fn delete_taps(&self) -> std::result::Result<(), Vec<Error>> {
        let mut results = Vec::new();
        for name in &self.names {
            let request = Request::new().delete(name.clone());
            let deleted = self.skeleton.on_host("delete-tap", &request).await;
            results.push(match deleted {
                // It is in its node, or was deleted by its owner.
                Err(Error::Helper {
                    source: alpy_netns::Error::Failed(failure),
                    ..
                }) if failure.reason.starts_with(NO_TAP) => Ok(()),
                other => other.map(drop),
            });
        }
        all_of(results)
    }
}

/// Starts a node for each link, with a tap in it, under the labels of a run, each of the two steps within its limit.
pub(crate) async fn start_in(run: &Arc<Run>, links: &[(usize, Link)], limit: Duration) -> Result<Started> {
    // While the nodes start, so does the helper: starts are what takes the time.
    let helper = OptionFuture::from(
        (!links.is_empty()).then(|| run.images().helper(run, "create-taps", Place::Alone)),
    );
    let helper = async { helper.await.transpose() };
    let nodes = async { tokio::try_join!(start_nodes(run, links), helper) };
    let ((nodes, loans), mut helper) =
        step!(target: "alpy::node", within: limit, "Create nodes", nodes).await?;
    let taps = create_taps(helper.as_mut(), links, loans);
    let taps = step!(target: "alpy::node", within: limit, "Create tap interfaces", taps).await?;
    Ok((nodes, taps, helper))
}

async fn start_nodes(run: &Arc<Run>, links: &[(usize, Link)]) -> Result<(Vec<Node>, Vec<Loan>)> {
    let started = links
        .iter()
        .map(|(index, link)| Node::start(*index, link, Arc::clone(run)));
    let started = try_join_all(started).await?;
    Ok(started.into_iter().unzip())
}

/// Has the helper make a tap in each of the namespaces that the nodes lend.
async fn create_taps(
    helper: Option<&mut Helper>,
    links: &[(usize, Link)],
    loans: Vec<Loan>,
) -> Result<Vec<OwnedFd>> {
    let mut taps = Vec::new();
    let Some(helper) = helper else {
        return Ok(taps);
    };
    for ((index, link), loan) in links.iter().zip(loans) {
        let request = link.settings(*index, Request::new().lasting_tap(interface()))?;
        taps.extend(helper.run_on(loan, &request).await?.taps);
    }
    Ok(taps)
}

/// Waits until the helper of a start has ended.
pub(crate) async fn end(helper: Option<Helper>) -> Result<()> {
    match helper {
        Some(helper) => helper.end().await,
        None => Ok(()),
    }
}

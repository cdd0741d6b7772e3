// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes and the applications in them.

mod sysctls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alpy_docker::{Container, Engine, Running};
use alpy_netns::{Gauge, Impairment, LinkInfo, LinkState, Loan, Request};
use sysctls::sysctls;
use tokio::sync::Mutex;

use crate::error::{Error, Result};
use crate::helper::{LIMIT, Place, at};
use crate::link::{Link, interface};
use crate::run::Run;
use crate::step;

/// Longer than any test; whoever waits has a deadline.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// How long a node may take to end by itself.
const END: Duration = Duration::from_secs(2);

/// The names that all applications know of, as Docker has them. An application may add to them, for all of its node.
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// A container that keeps the network namespace of a link alive.
#[derive(Debug)]
pub struct Node {
    index: usize,
    running: Running,
    /// What its applications have as `/etc/hosts`.
    hosts: PathBuf,
    gauge: Arc<Gauge>,
    sent: Mutex<Impairment>,
    received: Mutex<Impairment>,
    run: Arc<Run>,
}

impl Node {
    /// Starts it, and takes what it lends of its network namespace.
    pub(crate) async fn start(index: usize, link: &Link, run: Arc<Run>) -> Result<(Self, Loan)> {
        let name = format!("node{index}");
        let listener = run.images().listener(&name)?;
        let mut node = run.images().node(&run, &name, &listener)?;
        for (name, value) in sysctls(link.has_ipv6(), run.engine().info().rootless) {
            node = node.sysctl(name, value);
        }
        let hosts = run.file(&format!("{name}.hosts"), HOSTS)?;
        let running = node.start(run.engine()).await?;
        let loan = tokio::select! {
            loan = listener.accept_loan(LIMIT) => loan.map_err(at(&name))?,
            lost = lost(index, &running) => return Err(lost),
        };
        let node = Self {
            index,
            running,
            hosts,
            gauge: Arc::new(loan.gauge().map_err(Error::Runtime)?),
            sent: Mutex::default(),
            received: Mutex::default(),
            run,
        };
        Ok((node, loan))
    }

    /// Which link it belongs to, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The container's id. Docker does not write `/etc/hosts` for containers that join its network by other means than
    /// [`application`](Self::application).
    pub fn id(&self) -> &str {
        self.running.id()
    }

    /// The engine that it runs on, and its applications too.
    pub fn engine(&self) -> &Engine {
        self.run.engine()
    }

    /// The process id of the node, as the engine's host sees it: the one whose namespace `nsenter` enters.
    ///
    /// # Errors
    /// The engine does not answer, or the node is gone.
    pub async fn pid(&self) -> Result<u32> {
        Ok(self.running.pid().await?)
    }

    /// A container for an application in this node: it shares the node's network namespace, and its process namespace, so that
    /// it ends when the node ends, in whatever way. The name is that of its output in the evidence. Add the command and what else it
    /// needs, then run it to its end or start it in the background.
    ///
    /// ```no_run
    /// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
    /// let ping = bed.node(0).application("ping", "busybox:latest")?.command(["ping", "-c1", "192.168.1.1"]);
    /// let output = ping.capability("NET_RAW").run(bed.engine()).await?.success()?;
    /// println!("{}", output.stdout_text());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The files for its output cannot be created.
    pub fn application(&self, name: &str, image: &str) -> Result<Container> {
        let container = self.run.container(&format!("node{}-{name}", self.index), image)?;
        let container = container.bind(&self.hosts, "/etc/hosts");
        Ok(container.network_of(self.id()).pid_of(self.id()))
    }

    /// The state, the addresses and the counters of the node's end of the link, read in the namespace.
    ///
    /// # Errors
    /// The helper container cannot run.
    pub async fn interface(&self) -> Result<LinkInfo> {
        let request = Request::new().inspect(interface());
        let name = format!("node{}-inspect", self.index);
        let place = Place::Node(self.id());
        let mut answer = self.run.images().run(&self.run, &name, place, &request).await?;
        answer.links.pop().ok_or(Error::HelperSilent { name })
    }

    /// Whether the node's end of the link is up and has a carrier, and what passed through it, as its kernel counts. It is asked
    /// directly, in some ten microseconds.
    ///
    /// # Errors
    /// There is no interface `eth0` in the node.
    pub fn link_state(&self) -> Result<LinkState> {
        state_of(self.index, &self.gauge)
    }

    /// Changes what becomes of the frames that leave the node on their way to the machine: `change` is given the impairment that there
    /// is, and says what it is to be. What it does not touch stays; [`Impairment::new`] ends it all.
    ///
    /// ```no_run
    /// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
    /// let node = bed.node(0);
    /// node.impair(|impairment| impairment.rate_bits(1_000_000)).await?;
    /// node.impair(|impairment| impairment.loss(0.01)).await?; // the rate stays
    /// # Ok(()) }
    /// ```
    ///
    /// Frames of the other direction are not touched: [`impair_received`](Self::impair_received) is for these.
    ///
    /// # Errors
    /// A value that can never be right; the kernel of the engine's host has no `sch_netem`, or even no `sch_tbf`: the error names the
    /// module. The impairment is then what it was.
    ///
    /// Not cancel safe: whether the change was made is then not known.
    pub async fn impair(&self, change: impl FnOnce(Impairment) -> Impairment) -> Result<()> {
        let request = |changed| Request::new().impair(interface(), changed);
        let title = format!("Impair link {}", self.index);
        self.change_impairment(&self.sent, change, request, title).await
    }

    /// The same for the frames that come from the machine, and have yet to reach what runs in the node. Each direction has an impairment
    /// of its own: to change one leaves the other as it is.
    ///
    /// ```no_run
    /// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
    /// use std::time::Duration;
    ///
    /// // 100 ms each way: a round trip takes 200 ms longer.
    /// let node = bed.node(1);
    /// node.impair(|impairment| impairment.delay(Duration::from_millis(100))).await?;
    /// node.impair_received(|impairment| impairment.delay(Duration::from_millis(100))).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Such a frame is impaired behind the tap. The capture has it as the machine sent it, and the node's counters and its packet sockets
    /// (tcpdump) see it when it comes: what is lost is lost for the protocols alone.
    ///
    /// # Errors
    /// As [`impair`](Self::impair). This direction needs `ifb`, `sch_ingress`, `cls_matchall` and `act_mirred` too.
    ///
    /// Not cancel safe, as `impair`.
    pub async fn impair_received(&self, change: impl FnOnce(Impairment) -> Impairment) -> Result<()> {
        let request = |changed| Request::new().impair_received(interface(), changed);
        let title = format!("Impair what node {} receives", self.index);
        self.change_impairment(&self.received, change, request, title)
            .await
    }

    async fn change_impairment(
        &self,
        impairment: &Mutex<Impairment>,
        change: impl FnOnce(Impairment) -> Impairment,
        request: impl FnOnce(Impairment) -> Request,
        title: String,
    ) -> Result<()> {
        let mut impairment = impairment.lock().await;
        let changed = change(*impairment);
        let work = async {
            let request = request(changed);
            request.check().map_err(at(&format!("node{}", self.index)))?;
            let (name, place) = (format!("node{}-impair", self.index), Place::Node(self.id()));
            self.run.images().run(&self.run, &name, place, &request).await
        };
        step!(target: "alpy::node", format!("{title}: {changed}"), work).await?;
        *impairment = changed;
        Ok(())
    }

    /// What [`link_state`](Self::link_state) asks, to be asked once more when the node has ended. It keeps the namespace alive.
    pub(crate) fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// Waits for an end that nobody has asked for: before its removal a node does not end by itself. Cancel safe.
    pub(crate) async fn lost(&self) -> Error {
        lost(self.index, &self.running).await
    }

    /// Ends the node and with it everything that lives in it.
    pub(crate) async fn remove(self) -> Result<()> {
        // At the end of its input it ends by itself, for which the engine need not start a program, as it does to kill it. One that
        // cannot, as a stopped one, is killed.
        if self.running.close_stdin().await.is_ok() {
            let _ = self.running.wait(END).await;
        }
        Ok(self.running.remove().await?)
    }
}

async fn lost(index: usize, running: &Running) -> Error {
    let reason = match running.wait(FOREVER).await {
        Ok(output) => match output.stderr_text().trim_end() {
            "" => format!("it ended with {}", output.status),
            words => format!("it ended with {}: {words}", output.status),
        },
        Err(error) => error.to_string(),
    };
    Error::NodeGone { index, reason }
}

pub(crate) fn state_of(index: usize, gauge: &Gauge) -> Result<LinkState> {
    gauge.read(&interface()).map_err(at(&format!("node{index}")))
}

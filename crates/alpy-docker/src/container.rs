// SPDX-License-Identifier: GPL-3.0-or-later
//! What a container shall be: a value, built up by setters, that starts nothing by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::output::title;
use crate::{Engine, ExitStatus, Output, Result, Running, Stream};

/// A container to be.
///
/// What is not asked for is not given: no network, no capability, no way to gain privileges, removed when it ends. The image's
/// `HEALTHCHECK` does not run, and no proxy of the client's configuration is passed on.
///
/// ```no_run
/// # async fn example(engine: &alpy_docker::Engine, node: &alpy_docker::Running) -> alpy_docker::Result<()> {
/// use alpy_docker::Container;
///
/// let output = Container::new("busybox:latest")
///     .command(["ping", "-c1", "192.168.1.1"])
///     .network_of(node.id())
///     .capability("NET_RAW")
///     .run(engine)
///     .await?
///     .success()?;
/// println!("{}", output.stdout_text());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Container {
    pub(crate) image: String,
    pub(crate) name: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) env: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) network: String,
    pub(crate) bare_network: bool,
    pub(crate) pid_mode: Option<String>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) devices: Vec<PathBuf>,
    pub(crate) binds: Vec<Bind>,
    pub(crate) tmpfs: Vec<String>,
    pub(crate) read_only_root: bool,
    pub(crate) new_privileges: bool,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stdin: bool,
    pub(crate) auto_remove: bool,
    pub(crate) init: bool,
    pub(crate) memory_mib: Option<u32>,
    pub(crate) processes: Option<u32>,
    pub(crate) open_files: u32,
    pub(crate) time_limit: Duration,
    pub(crate) files: Vec<(String, u32, Vec<u8>)>,
    pub(crate) listeners: Listeners,
}

/// A folder or file of the host, seen inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Who wants to hear of the container's life as it goes on.
#[derive(Clone, Default)]
pub(crate) struct Listeners {
    pub(crate) output: Option<Arc<OnOutput>>,
    pub(crate) end: Option<Arc<OnEnd>>,
}

type OnOutput = dyn Fn(Stream, &[u8]) + Send + Sync;
type OnEnd = dyn Fn(ExitStatus) + Send + Sync;

impl Container {
    /// A container of an image that the engine has.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            name: None,
            entrypoint: None,
            command: None,
            env: Vec::new(),
            labels: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            network: "none".to_owned(),
            bare_network: false,
            pid_mode: None,
            capabilities: Vec::new(),
            devices: Vec::new(),
            binds: Vec::new(),
            tmpfs: Vec::new(),
            read_only_root: false,
            new_privileges: false,
            user: None,
            working_dir: None,
            stdin: false,
            auto_remove: true,
            init: false,
            memory_mib: None,
            processes: None,
            open_files: 1024,
            time_limit: Duration::from_secs(60),
            files: Vec::new(),
            listeners: Listeners::default(),
        }
    }

    /// The name. One engine holds it once: make it unique by construction. Without one, the engine makes one up.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The command and its arguments, instead of the image's.
    pub fn command<I: IntoIterator<Item: Into<String>>>(mut self, argv: I) -> Self {
        self.command = Some(argv.into_iter().map(Into::into).collect());
        self
    }

    /// The entry point, instead of the image's. The command follows it as arguments; the image's own command is then ignored.
    pub fn entrypoint<I: IntoIterator<Item: Into<String>>>(mut self, argv: I) -> Self {
        self.entrypoint = Some(argv.into_iter().map(Into::into).collect());
        self
    }

    /// No entry point, though the image may have one: the command is what runs.
    pub fn no_entrypoint(mut self) -> Self {
        // The way to clear it that the API documents, see Entrypoint in ContainerConfig.
        self.entrypoint = Some(vec![String::new()]);
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// One more label, by which a sweep finds what a crash left behind: see [`Engine::remove_labelled`].
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// A kernel parameter of its namespaces, such as `net.ipv4.ip_forward`.
    pub fn sysctl(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.sysctls.insert(name.into(), value.into());
        self
    }

    /// Shares the network namespace of another container that runs, named by id or name. The default is a namespace of its own
    /// with nothing but a loopback interface in it.
    pub fn network_of(mut self, container: &str) -> Self {
        self.network = format!("container:{container}");
        self.bare_network = false;
        self
    }

    /// Has a network namespace of its own that the engine does nothing for: no `/etc/hosts`, no `/etc/resolv.conf`, and IPv6 is as the
    /// kernel has it by default, where Docker turns it off. Docker before version 28 starts such a container in half the time: for
    /// each other one it starts its own large program once more, to enter the namespace.
    pub fn bare_network(mut self) -> Self {
        "none".clone_into(&mut self.network);
        self.bare_network = true;
        self
    }

    /// Uses the network of the engine's host. With a rootless engine that is the engine's own namespace, not the machine's.
    pub fn network_of_host(mut self) -> Self {
        "host".clone_into(&mut self.network);
        self.bare_network = false;
        self
    }

    /// Shares the process namespace of another container that runs, named by id or name: when the first process of that one
    /// ends, the kernel kills this one too.
    pub fn pid_of(mut self, container: &str) -> Self {
        self.pid_mode = Some(format!("container:{container}"));
        self
    }

    /// Has a process namespace of its own, where its command is process 1: the default.
    pub fn own_pids(mut self) -> Self {
        self.pid_mode = None;
        self
    }

    /// Sees the processes of the engine's host.
    pub fn pid_of_host(mut self) -> Self {
        self.pid_mode = Some("host".to_owned());
        self
    }

    /// One capability of capabilities(7), such as `NET_ADMIN`. There are none but those named.
    pub fn capability(mut self, name: impl Into<String>) -> Self {
        self.capabilities.push(name.into());
        self
    }

    /// A device of the host, at the same path inside, to be read, written and created.
    pub fn device(mut self, path: impl Into<PathBuf>) -> Self {
        self.devices.push(path.into());
        self
    }

    /// Shows a file or folder of the host inside; what the container writes there the host sees. It must exist.
    pub fn bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.bind_as(source.into(), target.into(), false)
    }

    /// As [`bind`](Self::bind), and the container cannot write there.
    pub fn bind_read_only(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.bind_as(source.into(), target.into(), true)
    }

    fn bind_as(mut self, source: PathBuf, target: PathBuf, read_only: bool) -> Self {
        self.binds.push(Bind {
            source,
            target,
            read_only,
        });
        self
    }

    /// An empty folder in memory.
    pub fn tmpfs(mut self, target: impl AsRef<Path>) -> Self {
        self.tmpfs.push(target.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Nothing can be written but in binds and tmpfs.
    pub fn read_only_root(mut self) -> Self {
        self.read_only_root = true;
        self
    }

    /// Lets a program gain privileges by set-user-id bits and file capabilities. The default is that it cannot.
    pub fn allow_new_privileges(mut self) -> Self {
        self.new_privileges = true;
        self
    }

    /// The user, as `name`, `uid` or `uid:gid`, instead of the image's.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The folder that the command starts in, instead of the image's.
    pub fn working_dir(mut self, path: impl Into<String>) -> Self {
        self.working_dir = Some(path.into());
        self
    }

    /// Gives the command a standard input that this process holds: [`Running::write_stdin`], [`Running::close_stdin`].
    ///
    /// When this process ends, in whatever way, SIGKILL included, the kernel closes its end and the command reads end of
    /// file. A container whose command is `cat` therefore dies with the test.
    ///
    /// For Docker that is `StdinOnce`. Podman ignores it and does it always: conmon, its monitor of a container, closes the
    /// input when any client goes that was attached to the container, even one that was attached to the output alone.
    pub fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Keeps the container after its end, until [`Running::remove`]. The default is that the engine removes it.
    pub fn keep(mut self) -> Self {
        self.auto_remove = false;
        self
    }

    /// Puts the engine's init process in front of the command: it reaps orphans and passes signals on.
    pub fn init(mut self) -> Self {
        self.init = true;
        self
    }

    /// The memory that it may use, in MiB.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// The number of processes and threads that it may have at once.
    pub fn processes(mut self, count: u32) -> Self {
        self.processes = Some(count);
        self
    }

    /// Sets how many files and sockets each of its processes may have open. Default: 1024. A program may raise its limit itself to
    /// 524,288, or to the engine's own hard limit if that is less.
    pub fn open_files(mut self, count: u32) -> Self {
        self.open_files = count;
        self
    }

    /// How long [`run`](Self::run) may take, from first to last. 60 seconds if not set.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Calls the function with each piece of output as it comes, to write it to a file, for example. Pieces end where the
    /// engine ended them, not at line ends. The call is made on a task of the runtime: it must not block for long.
    pub fn on_output(mut self, sink: impl Fn(Stream, &[u8]) + Send + Sync + 'static) -> Self {
        self.listeners.output = Some(Arc::new(sink));
        self
    }

    /// Calls the function when the container has ended, with how. As for [`on_output`](Self::on_output), it must not block. It
    /// is not called for a [`Running`] that is dropped before.
    pub fn on_end(mut self, listener: impl Fn(ExitStatus) + Send + Sync + 'static) -> Self {
        self.listeners.end = Some(Arc::new(listener));
        self
    }

    /// Writes a file into it before the command starts, owned by root, at an absolute path. Folders that are not there are made.
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push((path.into(), mode, content.into()));
        self
    }

    /// Runs it to its end and collects what it wrote and how it ended. A status other than 0 is no error here: say
    /// [`.success()?`](Output::success) to make it one. When this returns the container is gone from the engine.
    ///
    /// # Errors
    /// As [`start`](Self::start), and [`Error::Timeout`](crate::Error::Timeout) with the tail of the output after the [time
    /// limit](Self::time_limit); the container is then killed and removed.
    ///
    /// Not cancel safe: dropping the future removes the container in the background.
    pub async fn run(self, engine: &Engine) -> Result<Output> {
        crate::running::run(self, engine).await
    }

    /// Starts it in the background. When this returns the command is running, or has already ended.
    ///
    /// # Errors
    /// [`ImageAbsent`](crate::Error::ImageAbsent), [`NameTaken`](crate::Error::NameTaken), or
    /// [`StartFailed`](crate::Error::StartFailed) with the engine's reason: the container is then already removed again.
    ///
    /// Not cancel safe: dropping the future removes the container in the background.
    pub async fn start(self, engine: &Engine) -> Result<Running> {
        Running::start(self, engine).await
    }

    /// What it is called in messages.
    pub(crate) fn title(&self) -> String {
        title(self.name.as_deref(), &self.image)
    }

    /// Entry point and command, as far as set, for messages.
    pub(crate) fn argv(&self) -> Vec<String> {
        let entrypoint = self.entrypoint.iter().flatten();
        let command = self.command.iter().flatten();
        entrypoint
            .chain(command)
            .filter(|word| !word.is_empty())
            .cloned()
            .collect()
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container")
            .field("image", &self.image)
            .field("name", &self.name)
            .field("argv", &self.argv())
            .finish_non_exhaustive()
    }
}

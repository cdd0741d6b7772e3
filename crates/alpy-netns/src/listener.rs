// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::mkdtemp;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::session::take_loan;
use crate::{Error, Loan, Result, Session};

const SOCKET: &str = "socket";

/// A socket that one helper connects to.
///
/// It lies in a folder that is made for it, and that is made to be bind-mounted into the helper's container:
///
/// ```text
/// parent/alpy-netns-XXXXXX/      mode 0700: keeps every other user of this machine out
/// parent/alpy-netns-XXXXXX/run/  mode 0755: what is mounted, see Listener::folder
///                      .../socket     0666: for a helper that is root of its container and has no capability
///                                     to pass over file modes, while the test is an ordinary user
/// ```
///
/// The folder goes when the helper has connected, or when this is dropped.
#[derive(Debug)]
pub struct Listener {
    // In the order of dropping: the socket is closed before its folder goes.
    listener: UnixListener,
    folder: Folder,
}

impl Listener {
    /// Where the helper's container should see [`Listener::folder`].
    pub const MOUNT_POINT: &str = "/run/alpy";

    /// The helper's arguments, after its name, when the folder is mounted there.
    pub const ARGUMENTS: [&str; 2] = ["serve", "/run/alpy/socket"];

    /// The arguments of a holder that lends, when the folder is mounted there.
    pub const HOLD_ARGUMENTS: [&str; 2] = ["hold", "/run/alpy/socket"];

    /// Makes the socket in a new folder under `parent`. Its path may be of any length.
    ///
    /// It has to be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Socket`], which says what could not be made.
    pub fn bind_in(parent: &Path) -> Result<Self> {
        let folder = Folder::new_in(parent)?;
        let fault = |action| {
            let path = folder.socket();
            move |source| Error::Socket { action, path, source }
        };
        // Through the descriptor of its folder, a socket's path is short: 108 bytes is all that bind(2) takes.
        let inner = File::open(folder.inner()).map_err(fault("open the folder of"))?;
        let short = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", inner.as_raw_fd()));
        let listener = UnixListener::bind(short).map_err(fault("bind a socket to"))?;
        permit(&folder.socket(), 0o666)?;
        Ok(Self { listener, folder })
    }

    /// The folder to mount at [`Listener::MOUNT_POINT`].
    pub fn folder(&self) -> PathBuf {
        self.folder.inner()
    }

    /// The socket itself, for a helper that runs in no container.
    pub fn socket(&self) -> PathBuf {
        self.folder.socket()
    }

    /// Waits for the helper to connect and to say which protocol it speaks.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Protocol`] when something else connected, [`Error::HelperGone`] when it went at once.
    ///
    /// # Cancel safety
    /// If the future is dropped, the socket and its folder are removed.
    pub async fn accept(self, within: Duration) -> Result<Session> {
        in_time(within, async { Session::greet(self.connected().await?).await }).await
    }

    /// Waits for a holder (`hold SOCKET`) to connect and to lend what it has of its namespace.
    ///
    /// # Errors
    /// As [`Listener::accept`]; [`Error::Protocol`] also for a helper, which lends nothing.
    ///
    /// # Cancel safety
    /// As [`Listener::accept`].
    pub async fn accept_loan(self, within: Duration) -> Result<Loan> {
        in_time(within, async { take_loan(&self.connected().await?).await }).await
    }

    async fn connected(&self) -> Result<UnixStream> {
        let (stream, _) = self.listener.accept().await.map_err(Error::Connection)?;
        let peer = stream.peer_cred().map_err(Error::Connection)?;
        tracing::debug!(pid = peer.pid(), uid = peer.uid(), "the executable has connected");
        Ok(stream)
    }
}

async fn in_time<T>(within: Duration, greeting: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(within, greeting).await.map_err(|_| Error::Timeout {
        expected: "connect",
        waited: within,
    })?
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new_in(parent: &Path) -> Result<Self> {
        let template = parent.join("alpy-netns-XXXXXX");
        let outer = mkdtemp(&template).map_err(|error| Error::Socket {
            action: "make the folder",
            path: template,
            source: error.into(),
        })?;
        let folder = Self(outer);
        let inner = folder.inner();
        fs::create_dir(&inner).map_err(|source| Error::Socket {
            action: "make the folder",
            path: inner.clone(),
            source,
        })?;
        permit(&inner, 0o755)?;
        Ok(folder)
    }

    fn inner(&self) -> PathBuf {
        self.0.join("run")
    }

    fn socket(&self) -> PathBuf {
        self.inner().join(SOCKET)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %self.0.display(), %error, "cannot remove the helper's folder");
            }
            _ => {}
        }
    }
}

/// Sets the mode whatever the umask is.
fn permit(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|source| Error::Socket {
        action: "set the mode of",
        path: path.to_owned(),
        source,
    })
}

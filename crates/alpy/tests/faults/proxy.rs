// SPDX-License-Identifier: GPL-3.0-or-later
//! A socket between alpy and the real engine, which can make an engine slow, dumb, or gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alpy::docker::Engine;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// What the engine says comes this much later.
    Slow(Duration),
    /// Nothing passes, connections stay: an engine that was stopped by a signal.
    Dumb,
    /// No connection is there, and none is accepted: an engine that was killed.
    Gone,
}

pub(crate) struct Proxy {
    mode: watch::Sender<Mode>,
    folder: TempDir,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let real = Engine::connect().await.unwrap().socket();
        let folder = tempfile::tempdir().unwrap();
        let (mode, _) = watch::channel(Mode::Pass);
        let mut tasks = JoinSet::new();
        let listener = UnixListener::bind(socket(&folder)).unwrap();
        tasks.spawn(serve(listener, real, mode.clone()));
        Self {
            mode,
            folder,
            _tasks: tasks,
        }
    }

    pub(crate) async fn engine(&self) -> Engine {
        let address = format!("unix://{}", socket(&self.folder).display());
        Engine::connect_to(&address).await.unwrap()
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("engine.sock")
}

async fn serve(listener: UnixListener, real: PathBuf, mode: watch::Sender<Mode>) {
    let real = Arc::new(real);
    let mut connections = JoinSet::new();
    let mut modes = mode.subscribe();
    loop {
        tokio::select! {
            _ = modes.wait_for(|mode| *mode == Mode::Gone) => return,
            stream = listener.accept() => {
                let (near, _) = stream.unwrap();
                connections.spawn(relay(near, Arc::clone(&real), mode.subscribe()));
            }
        }
    }
}

async fn relay(near: UnixStream, real: Arc<PathBuf>, mode: watch::Receiver<Mode>) {
    let far = UnixStream::connect(&*real).await.unwrap();
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(
        copy(near_read, far_write, mode.clone(), false),
        copy(far_read, near_write, mode, true)
    );
}

/// One direction. At the end of the source, the sink's other direction goes on.
async fn copy(
    mut source: tokio::net::unix::OwnedReadHalf,
    mut sink: tokio::net::unix::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    answers: bool,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        let now = *mode.borrow();
        if let (Mode::Slow(by), true) = (now, answers) {
            sleep_until(Instant::now() + by).await;
        }
        if mode.wait_for(|mode| *mode != Mode::Dumb).await.is_err() {
            return;
        }
        if sink.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

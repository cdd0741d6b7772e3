// SPDX-License-Identifier: GPL-3.0-or-later
//! A scene for tests with a real engine: an image, a label, and nothing left behind.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alpy_docker::{Archive, Container, Engine};
use futures_util::FutureExt;

/// Long enough for a busy machine. What is waited for comes in a fraction of it.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What a test has of its own.
pub(crate) struct Scene {
    pub(crate) engine: Engine,
    /// An image of nothing but busybox.
    pub(crate) image: String,
    /// A string that nobody else uses.
    pub(crate) unique: String,
}

impl Scene {
    /// A container of the scene's image, with the scene's label.
    pub(crate) fn container<const N: usize>(&self, command: [&str; N]) -> Container {
        Container::new(&self.image)
            .command(command)
            .label("alpy.run", &self.unique)
    }

    /// The containers of the scene that there are.
    pub(crate) async fn containers(&self) -> Vec<String> {
        self.engine.labelled(&self.label()).await.unwrap()
    }

    /// The name of an image that the test may make.
    pub(crate) fn made_image(&self) -> String {
        format!("alpy-docker-test/made:{}", self.unique)
    }

    /// Waits until the scene has no container any more.
    pub(crate) async fn none_left(&self) {
        let gone = async {
            let mut next_look = tokio::time::interval(Duration::from_millis(20));
            while !self.containers().await.is_empty() {
                next_look.tick().await;
            }
        };
        tokio::time::timeout(SOON, gone)
            .await
            .expect("containers are left");
    }

    pub(crate) fn label(&self) -> String {
        format!("alpy.run={}", self.unique)
    }
}

/// The root folder of an image that has busybox and nothing else.
pub(crate) fn busybox_root() -> Vec<u8> {
    let program = std::fs::read(alpy_need::busybox_path().unwrap()).unwrap();
    let mut root = Archive::new()
        .folder("bin", 0o755)
        .unwrap()
        .file("bin/busybox", 0o755, &program)
        .unwrap();
    for applet in [
        "cat", "echo", "false", "grep", "head", "id", "ls", "readlink", "sh", "sleep", "stat", "true", "yes",
    ] {
        root = root.symlink(&format!("bin/{applet}"), "busybox").unwrap();
    }
    root.folder("tmp", 0o1777).unwrap().finish()
}

/// Runs a test and cleans up, whether it passed or not. What the test itself should have removed is an error.
pub(crate) async fn scene(test: impl AsyncFnOnce(&Scene)) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let scene = Scene {
        engine: Engine::connect().await.unwrap(),
        image: format!("alpy-docker-test:{unique}"),
        unique,
    };
    scene
        .engine
        .import_image(&scene.image, busybox_root(), &["ENV PATH=/bin"])
        .await
        .unwrap();
    let result = AssertUnwindSafe(test(&scene)).catch_unwind().await;
    let left = scene.engine.remove_labelled(&scene.label()).await.unwrap();
    for image in [&scene.image, &scene.made_image()] {
        // One that is gone, or was never made, is fine.
        scene.engine.remove_image(image).await.unwrap();
    }
    match result {
        Ok(()) => assert_eq!(left, Vec::<String>::new(), "containers were left behind"),
        Err(panic) => resume_unwind(panic),
    }
}

/// What the Docker CLI, which knows nothing of alpy, prints.
#[expect(clippy::disallowed_methods, reason = "an oracle, waited for at once")]
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = std::process::Command::new("docker")
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

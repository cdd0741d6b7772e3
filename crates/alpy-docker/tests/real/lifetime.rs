// SPDX-License-Identifier: GPL-3.0-or-later
//! How containers go away, on a real engine.

use std::env;
use std::future::pending;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alpy_docker::{Container, Engine, Error};
use alpy_need::need;
use tokio::time::timeout;

use crate::support::{SOON, scene};

/// Given to the child process: the image, and the label's value.
const CHILD: &str = "ALPY_DOCKER_TEST_CHILD";

#[tokio::test]
async fn a_killed_process_takes_its_node_and_applications_along() {
    need!(docker, busybox);
    scene(async |scene| {
        let mut child = child(&format!("{} {}", scene.image, scene.unique));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines
            .map_while(Result::ok)
            .find(|line| line.contains("all running"))
            .unwrap();
        assert_eq!(scene.containers().await.len(), 3);
        child.kill().unwrap();
        child.wait().unwrap();
        let killed = Instant::now();
        scene.none_left().await;
        assert!(
            killed.elapsed() < Duration::from_secs(5),
            "{:?}",
            killed.elapsed()
        );
    })
    .await;
}

#[tokio::test]
#[ignore = "no test: what the child process of the test above does"]
async fn child_that_is_killed() {
    let told = env::var(CHILD).unwrap();
    let (image, unique) = told.split_once(' ').unwrap();
    let engine = Engine::connect().await.unwrap();
    let container = |command: [&str; 3]| Container::new(image).command(command).label("alpy.run", unique);
    let node = container(["sh", "-c", "cat"])
        .stdin()
        .start(&engine)
        .await
        .unwrap();
    let deaf = container(["sh", "-c", "trap '' TERM HUP; sleep 1000"])
        .pid_of(node.id())
        .network_of(node.id());
    let _deaf = deaf.start(&engine).await.unwrap();
    let forking = container(["sh", "-c", "sleep 1000 & sleep 1000"])
        .pid_of(node.id())
        .network_of(node.id());
    let _forking = forking.start(&engine).await.unwrap();
    println!("all running");
    pending::<()>().await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "this very test, as a process that can be killed"
)]
fn child(told: &str) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "lifetime::child_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, told)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_dropped_container_is_removed() {
    need!(docker, busybox);
    scene(async |scene| {
        let running = scene
            .container(["sleep", "1000"])
            .start(&scene.engine)
            .await
            .unwrap();
        assert_eq!(scene.containers().await, [running.id()]);
        drop(running);
        scene.none_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_start_that_is_given_up_at_any_moment_leaves_nothing_once_the_engine_has_settled() {
    need!(docker, busybox);
    scene(async |scene| {
        for after in [0, 5, 10, 20, 40, 80, 160].map(Duration::from_millis) {
            let start = scene.container(["sleep", "1000"]).start(&scene.engine);
            // One that has come in time is dropped as well.
            let _ = timeout(after, start).await;
            assert!(scene.engine.settled(SOON).await);
            assert_eq!(scene.containers().await, [""; 0], "given up after {after:?}");
        }
    })
    .await;
}

/// Even where the runtime ends in the same moment, as it does when a test fails.
#[test]
fn a_container_dropped_outside_of_a_runtime_is_removed() {
    need!(docker, busybox);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    runtime().block_on(scene(async |scene| {
        let (image, unique) = (scene.image.clone(), scene.unique.clone());
        let elsewhere = move || {
            let inner = runtime();
            let start = async {
                let engine = Engine::connect().await.unwrap();
                Container::new(image)
                    .command(["sleep", "1000"])
                    .label("alpy.run", unique)
                    .start(&engine)
                    .await
            };
            let running = inner.block_on(start).unwrap();
            drop(inner);
            drop(running);
        };
        tokio::task::spawn_blocking(elsewhere).await.unwrap();
        scene.none_left().await;
    }));
}

/// The caller may go away at any point between the first request and the last.
#[tokio::test]
async fn an_abandoned_start_leaves_nothing() {
    need!(docker, busybox);
    scene(async |scene| {
        for milliseconds in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256] {
            let run = scene.container(["sleep", "1000"]).run(&scene.engine);
            timeout(Duration::from_millis(milliseconds), run)
                .await
                .unwrap_err();
        }
        // The last creations may still be on their way: an engine that has answered a further one has seen them.
        scene.container(["true"]).run(&scene.engine).await.unwrap();
        scene.none_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_container_that_somebody_else_removed_is_no_trouble() {
    need!(docker, busybox);
    scene(async |scene| {
        let running = scene
            .container(["sleep", "1000"])
            .start(&scene.engine)
            .await
            .unwrap();
        scene.engine.remove(running.id()).await.unwrap();
        assert_eq!(running.wait(SOON).await.unwrap().status.signal(), Some("SIGKILL"));
        running.kill("SIGTERM").await.unwrap();
        assert!(matches!(running.pid().await, Err(Error::NotRunning { .. })));
        assert!(matches!(
            running.exec(["true"], SOON).await,
            Err(Error::NotRunning { .. })
        ));
        let id = running.id().to_owned();
        running.remove().await.unwrap();
        scene.engine.remove(&id).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_kept_container_stays_until_removed() {
    need!(docker, busybox);
    scene(async |scene| {
        let kept = scene
            .container(["true"])
            .keep()
            .start(&scene.engine)
            .await
            .unwrap();
        assert!(kept.wait(SOON).await.unwrap().status.success());
        assert_eq!(scene.containers().await, [kept.id()]);
        kept.remove().await.unwrap();
        assert_eq!(scene.containers().await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_sweep_removes_what_carries_the_label_and_nothing_else() {
    need!(docker, busybox);
    scene(async |scene| {
        let other = Container::new(&scene.image)
            .command(["sleep", "1000"])
            .label("alpy.run", format!("{}x", scene.unique));
        let other = other.start(&scene.engine).await.unwrap();
        let mut ids = Vec::new();
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(
                scene
                    .container(["sleep", "1000"])
                    .start(&scene.engine)
                    .await
                    .unwrap(),
            );
            ids.push(running.last().unwrap().id().to_owned());
        }
        let mut swept = scene.engine.remove_labelled(&scene.label()).await.unwrap();
        swept.sort();
        ids.sort();
        assert_eq!(swept, ids);
        assert_eq!(other.status(), None);
        other.pid().await.unwrap();
        other.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn waits_for_a_container_of_somebody_else_to_run() {
    need!(docker, busybox);
    scene(async |scene| {
        let name = format!("alpy-docker-test-{}", scene.unique);
        let start = async {
            scene
                .container(["sleep", "1000"])
                .name(&name)
                .start(&scene.engine)
                .await
                .unwrap()
        };
        let (waited, running) = tokio::join!(scene.engine.wait_running(&name, SOON), start);
        waited.unwrap();
        scene.engine.wait_running(running.id(), SOON).await.unwrap();
        running.remove().await.unwrap();
        // The start of before is replayed, and does not count: the container is gone.
        let error = scene
            .engine
            .wait_running(&name, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Timeout { step, .. } if step.contains(&name)),
            "{error:?}"
        );
    })
    .await;
}

/// What the facade needs to run steps on tasks of their own.
#[test]
fn every_future_can_move_between_threads() {
    fn sendable<T: Send>(_: impl FnOnce(Engine, Container) -> T) {}
    sendable(|engine, container| async move {
        let image = async || engine.pull_image("image").await;
        engine.ensure_image("image", image).await?;
        container.clone().run(&engine).await?;
        let running = container.start(&engine).await?;
        running.wait_output("text", SOON).await?;
        running.write_stdin(b"text").await?;
        running.exec(["true"], SOON).await?;
        running.stop("SIGTERM", SOON).await?;
        running.remove().await?;
        engine.import_image("image", Vec::new(), &[]).await?;
        engine.remove_labelled("label").await
    });
}

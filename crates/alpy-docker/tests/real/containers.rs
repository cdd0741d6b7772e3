// SPDX-License-Identifier: GPL-3.0-or-later
//! What containers do, on a real engine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alpy_docker::{Container, Error, Stream};
use alpy_need::need;
use futures_util::{StreamExt, stream};

use crate::support::{SOON, docker, scene};

#[tokio::test]
async fn runs_to_the_end_and_collects_output_and_status() {
    need!(docker, busybox);
    scene(async |scene| {
        let command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
        let output = scene.container(command).run(&scene.engine).await.unwrap();
        assert_eq!(output.stdout_text(), "out\n");
        assert_eq!(output.stderr_text(), "err\n");
        assert_eq!(output.status.code(), 3);
        let error = output.success().unwrap_err().to_string();
        for part in [
            "exit code 3",
            "stderr ends with: err",
            "stdout ends with: out",
            &scene.image,
            "echo out",
        ] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        // It was removed before `run` returned.
        assert_eq!(scene.containers().await, Vec::<String>::new());
    })
    .await;
}

/// The short form of a thousand: each container's life is over before the start request has been answered.
#[tokio::test]
async fn misses_nothing_of_containers_that_exit_at_once() {
    need!(docker, busybox);
    scene(async |scene| {
        let run = async |number: i64| {
            let command = ["sh", "-c", &format!("echo {number}; exit {number}")];
            let output = scene
                .container(command)
                .time_limit(SOON)
                .run(&scene.engine)
                .await
                .unwrap();
            assert_eq!(output.stdout_text(), format!("{number}\n"));
            assert_eq!(output.status.code(), number);
        };
        stream::iter(0..24)
            .map(run)
            .buffer_unordered(6)
            .collect::<()>()
            .await;
    })
    .await;
}

#[tokio::test]
async fn keeps_a_flood_of_output_whole() {
    need!(docker, busybox);
    scene(async |scene| {
        let command = ["sh", "-c", "yes 0123456789abcde | head -c 4000000; echo END >&2"];
        let output = scene.container(command).run(&scene.engine).await.unwrap();
        assert_eq!(output.stdout.len(), 4_000_000);
        assert!(
            output
                .stdout
                .chunks_exact(16)
                .all(|line| line == b"0123456789abcde\n")
        );
        assert_eq!(output.stderr_text(), "END\n");
    })
    .await;
}

#[tokio::test]
async fn names_the_signal_that_ended_it() {
    need!(docker, busybox);
    scene(async |scene| {
        let polite = [
            "sh",
            "-c",
            "trap 'exit 143' TERM; echo ready; while :; do sleep 1000 & wait; done",
        ];
        let polite = scene.container(polite).start(&scene.engine).await.unwrap();
        polite.wait_output("ready", SOON).await.unwrap();
        let output = polite.stop("SIGTERM", SOON).await.unwrap();
        assert_eq!(output.status.signal(), Some("SIGTERM"));
        // What has ended can be stopped, signalled and removed all the same.
        polite.kill("SIGTERM").await.unwrap();
        assert_eq!(polite.stop("SIGTERM", SOON).await.unwrap().status, output.status);
        polite.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn kills_what_ignores_its_signal() {
    need!(docker, busybox);
    scene(async |scene| {
        let deaf = ["sh", "-c", "trap '' TERM; echo ready; sleep 1000"];
        let deaf = scene.container(deaf).start(&scene.engine).await.unwrap();
        deaf.wait_output("ready", SOON).await.unwrap();
        let output = deaf.stop("SIGTERM", Duration::from_millis(300)).await.unwrap();
        assert_eq!(output.status.to_string(), "exit code 137 (SIGKILL)");
        assert_eq!(output.stdout_text(), "ready\n");
        deaf.remove().await.unwrap();
        let error = scene
            .container(["cat"])
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap()
            .kill("TERM")
            .await;
        assert!(error.unwrap_err().to_string().contains("\"TERM\""));
        scene.none_left().await;
    })
    .await;
}

#[tokio::test]
async fn talks_through_standard_input() {
    need!(docker, busybox);
    scene(async |scene| {
        let cat = scene
            .container(["cat"])
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap();
        cat.write_stdin(b"hello\n").await.unwrap();
        cat.wait_output("hello\n", SOON).await.unwrap();
        assert_eq!(cat.status(), None);
        cat.close_stdin().await.unwrap();
        let output = cat.wait(SOON).await.unwrap().success().unwrap();
        assert_eq!(output.stdout_text(), "hello\n");
        assert!(matches!(
            cat.write_stdin(b"more").await,
            Err(Error::NoStdin { .. })
        ));
        cat.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn hands_on_output_as_it_comes() {
    need!(docker, busybox);
    scene(async |scene| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let cat = scene
            .container(["sh", "-c", "cat; echo bye >&2"])
            .stdin()
            .on_output(move |stream, bytes| sink.lock().unwrap().push((stream, bytes.to_vec())))
            .start(&scene.engine)
            .await
            .unwrap();
        cat.write_stdin(b"one").await.unwrap();
        cat.wait_output("one", SOON).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [(Stream::Stdout, b"one".to_vec())]);
        cat.close_stdin().await.unwrap();
        cat.wait(SOON).await.unwrap();
        assert_eq!(seen.lock().unwrap()[1], (Stream::Stderr, b"bye\n".to_vec()));
        assert_eq!(
            (&cat.stdout()[..], &cat.stderr()[..]),
            (&b"one"[..], &b"bye\n"[..])
        );
        cat.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn says_that_it_ended_before_the_awaited_output() {
    need!(docker, busybox);
    scene(async |scene| {
        let quick = scene
            .container(["sh", "-c", "echo address in use; exit 1"])
            .start(&scene.engine)
            .await
            .unwrap();
        let error = quick.wait_output("listening", SOON).await.unwrap_err();
        assert!(matches!(error, Error::EndedEarly { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("\"listening\"") && text.contains("address in use"),
            "{text}"
        );
        quick.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn shares_the_namespaces_of_a_node() {
    need!(docker, busybox);
    scene(async |scene| {
        let node = scene
            .container(["cat"])
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap();
        let look = |container: Container| async {
            let output = container.run(&scene.engine).await.unwrap().success().unwrap();
            output.stdout_text().into_owned()
        };
        let namespaces = [
            "sh",
            "-c",
            "readlink /proc/self/ns/net; readlink /proc/self/ns/pid",
        ];
        let shared = scene
            .container(namespaces)
            .network_of(node.id())
            .pid_of(node.id());
        let (shared, own) = (look(shared).await, look(scene.container(namespaces)).await);
        let own_again = look(scene.container(namespaces).pid_of(node.id()).own_pids()).await;
        assert_ne!(own_again.lines().last(), shared.lines().last());
        // The oracle is the Docker CLI, with a process in the node itself; what the kernel shows of the node's first process
        // from outside is not for every user to see.
        let of_node = docker(&[&["exec", node.id()], namespaces.as_slice()].concat());
        assert_eq!(shared, of_node);
        assert!(
            own.lines().zip(shared.lines()).all(|(own, shared)| own != shared),
            "{own} {shared}"
        );
        // A network of one's own has a loopback interface and nothing else.
        let interfaces = look(scene.container(["ls", "/sys/class/net"]).network_of(node.id())).await;
        assert_eq!(interfaces, "lo\n");
        node.remove().await.unwrap();
    })
    .await;
}

/// An application dies with its node: the kernel ends a process namespace with its first process.
#[tokio::test]
async fn an_application_ends_with_its_node() {
    need!(docker, busybox);
    scene(async |scene| {
        let node = scene
            .container(["cat"])
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap();
        let application = scene
            .container(["sleep", "1000"])
            .pid_of(node.id())
            .network_of(node.id());
        let application = application.start(&scene.engine).await.unwrap();
        node.close_stdin().await.unwrap();
        assert!(node.wait(SOON).await.unwrap().status.success());
        assert_eq!(
            application.wait(SOON).await.unwrap().status.signal(),
            Some("SIGKILL")
        );
        application.remove().await.unwrap();
        node.remove().await.unwrap();
        assert_eq!(scene.containers().await, Vec::<String>::new());
    })
    .await;
}

/// The process left behind holds the output open: it must not hold the caller too.
#[tokio::test]
async fn returns_although_a_process_was_left_behind() {
    need!(docker, busybox);
    scene(async |scene| {
        let node = scene
            .container(["cat"])
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap();
        let daemon = scene
            .container(["sh", "-c", "sleep 1000 & echo started"])
            .pid_of(node.id());
        let output = daemon.time_limit(SOON).run(&scene.engine).await.unwrap();
        assert_eq!((output.status.code(), &*output.stdout_text()), (0, "started\n"));
        node.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn gives_no_right_that_was_not_asked_for() {
    need!(docker, busybox);
    scene(async |scene| {
        let rights = ["grep", "-E", "^(CapEff|CapBnd|NoNewPrivs)", "/proc/self/status"];
        let look = |container: Container| async {
            let text = container
                .run(&scene.engine)
                .await
                .unwrap()
                .stdout_text()
                .into_owned();
            text.split_whitespace()
                .filter(|word| !word.ends_with(':'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            look(scene.container(rights)).await,
            ["0000000000000000", "0000000000000000", "1"]
        );
        let net_admin = scene
            .container(rights)
            .capability("NET_ADMIN")
            .allow_new_privileges();
        assert_eq!(
            look(net_admin).await,
            ["0000000000001000", "0000000000001000", "0"]
        );
    })
    .await;
}

#[tokio::test]
async fn writes_only_where_it_may() {
    need!(docker, busybox);
    scene(async |scene| {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let script = "for d in / /in /out /mem; do echo x > $d/file && echo $d; done; exit 0";
        let output = scene
            .container(["sh", "-c", script])
            .read_only_root()
            .bind_read_only(folder.path(), "/in")
            .bind(folder.path(), "/out")
            .tmpfs("/mem")
            .run(&scene.engine)
            .await
            .unwrap();
        assert_eq!(output.stdout_text(), "/out\n/mem\n", "{}", output.stderr_text());
        assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "x\n");
    })
    .await;
}

#[tokio::test]
async fn runs_as_it_is_told() {
    need!(docker, busybox);
    scene(async |scene| {
        let output = scene
            .container(["-c", "id -u; id -g; pwd; echo $ROLE; cat /etc/alpy/role"])
            .entrypoint(["sh"])
            .user("1234:5678")
            .working_dir("/tmp")
            .env("ROLE", "client of = things")
            .file("/etc/alpy/role", "told before the start\n", 0o644)
            .name(format!("alpy-docker-test-{}", scene.unique))
            .run(&scene.engine)
            .await
            .unwrap();
        let expected = "1234\n5678\n/tmp\nclient of = things\ntold before the start\n";
        assert_eq!(output.stdout_text(), expected, "{output:?}");
    })
    .await;
}

#[tokio::test]
async fn copies_a_file_in_and_runs_a_further_command() {
    need!(docker, busybox);
    scene(async |scene| {
        let node = scene
            .container(["cat"])
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap();
        node.copy_in("/tmp/script", b"#!/bin/sh\necho \"$@\"; exit 7\n", 0o750)
            .await
            .unwrap();
        let output = node
            .exec(["stat", "-c", "%a %u %s", "/tmp/script"], SOON)
            .await
            .unwrap()
            .success()
            .unwrap();
        assert_eq!(output.stdout_text(), "750 0 28\n");
        let output = node.exec(["/tmp/script", "a  b", "c"], SOON).await.unwrap();
        assert_eq!((output.status.code(), &*output.stdout_text()), (7, "a  b c\n"));
        for path in ["relative", "/", "/tmp/", "/.."] {
            let error = node.copy_in(path, b"", 0o644).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{path}: {error}");
        }
        node.remove().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_time_limit_ends_a_run_and_shows_what_was_seen() {
    need!(docker, busybox);
    scene(async |scene| {
        let command = ["sh", "-c", "echo halfway; sleep 1000"];
        let error = scene
            .container(command)
            .time_limit(Duration::from_secs(4))
            .run(&scene.engine)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        assert!(error.to_string().contains("halfway"), "{error}");
        assert_eq!(scene.containers().await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn each_refusal_has_its_own_error() {
    need!(docker, busybox);
    scene(async |scene| {
        let absent = Container::new("alpy-no-such-image:1")
            .run(&scene.engine)
            .await
            .unwrap_err();
        assert!(
            matches!(&absent, Error::ImageAbsent { image } if image == "alpy-no-such-image:1"),
            "{absent:?}"
        );

        let name = format!("alpy-docker-test-{}", scene.unique);
        let first = scene
            .container(["cat"])
            .name(&name)
            .stdin()
            .start(&scene.engine)
            .await
            .unwrap();
        let taken = scene
            .container(["cat"])
            .name(&name)
            .start(&scene.engine)
            .await
            .unwrap_err();
        assert!(
            matches!(&taken, Error::NameTaken { name: taken } if *taken == name),
            "{taken:?}"
        );
        first.remove().await.unwrap();

        let failed = scene
            .container(["no-such-program"])
            .start(&scene.engine)
            .await
            .unwrap_err();
        assert!(matches!(failed, Error::StartFailed { .. }), "{failed:?}");
        assert!(failed.to_string().contains("no-such-program"), "{failed}");

        let bind = scene
            .container(["true"])
            .bind("/no/such/folder", "/in")
            .start(&scene.engine)
            .await
            .unwrap_err();
        assert!(bind.to_string().contains("/no/such/folder"), "{bind}");

        let node = scene
            .container(["true"])
            .network_of("alpy-no-such-node")
            .start(&scene.engine)
            .await
            .unwrap_err();
        assert!(node.to_string().contains("alpy-no-such-node"), "{node}");

        for container in [
            scene.container(["true"]).name("a/b"),
            scene.container(["true"]).bind("relative", "/in"),
        ] {
            let invalid = container.start(&scene.engine).await.unwrap_err();
            assert!(matches!(invalid, Error::Invalid { .. }), "{invalid:?}");
        }
        // None of them left the container that it had created.
        assert_eq!(scene.containers().await, Vec::<String>::new());
    })
    .await;
}

/// The CLI is the oracle. A rootless engine without cgroups drops the limits.
#[tokio::test]
async fn limits_reach_the_engine() {
    need!(docker, busybox);
    scene(async |scene| {
        let limited = scene
            .container(["cat"])
            .stdin()
            .init()
            .memory_mib(64)
            .processes(50);
        let limited = limited.start(&scene.engine).await.unwrap();
        let seen = inspect(
            limited.id(),
            "{{.HostConfig.Init}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}",
        );
        if scene.engine.info().rootless {
            assert!(seen.starts_with("true "), "{seen}");
        } else {
            assert_eq!(seen, "true 67108864 50\n");
        }
        limited.remove().await.unwrap();
    })
    .await;
}

fn inspect(id: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, id])
}

#[tokio::test]
async fn tells_of_the_end() {
    need!(docker, busybox);
    scene(async |scene| {
        let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let ended = scene
            .container(["sh", "-c", "exit 5"])
            .on_end(move |status| sender.send(status).unwrap());
        let output = ended.run(&scene.engine).await.unwrap();
        assert_eq!(ends.recv().await, Some(output.status));
        assert_eq!(ends.recv().await, None, "it is told once");
    })
    .await;
}

/// An engine keeps the stream open until the end, whatever the container does with its own output.
#[tokio::test]
async fn output_is_complete_though_the_container_closes_it() {
    need!(docker, busybox);
    scene(async |scene| {
        let command = ["sh", "-c", "echo said; exec >&- 2>&-; sleep 1"];
        let output = scene.container(command).run(&scene.engine).await.unwrap();
        let output = output.success().unwrap();
        assert_eq!(&*output.stdout_text(), "said\n");
    })
    .await;
}

/// More than is kept: the output says so, of a container and of a command in one.
#[tokio::test]
async fn output_is_bounded_and_says_so() {
    need!(docker, busybox);
    scene(async |scene| {
        // Two lines alone: the engine's own log takes each line by itself.
        let command = ["sh", "-c", "head -c 40000000 /dev/zero; echo; echo last"];
        const LATE: Duration = Duration::from_secs(120);
        let node = scene.container(["cat"]).stdin();
        let node = node.start(&scene.engine).await.unwrap();
        let of_container = scene.container(command).time_limit(LATE).run(&scene.engine);
        for output in [of_container.await, node.exec(command, LATE).await] {
            let output = output.unwrap();
            assert!(output.stdout.len() < 34 << 20, "{}", output.stdout.len());
            assert!(output.stdout.ends_with(b"\0\nlast\n"));
            let text = output.success().unwrap_err().to_string();
            assert!(text.contains("bytes are gone"), "{text}");
        }
        node.remove().await.unwrap();
    })
    .await;
}

/// The image has a HEALTHCHECK, the client's configuration has proxies, and the engine has its own limit of open files: none of them
/// reaches the container.
#[tokio::test]
async fn neither_the_image_nor_the_client_nor_the_engine_adds_anything() {
    need!(docker, busybox);
    scene(async |scene| {
        let made = scene.made_image();
        let file = format!(
            "FROM {}\nHEALTHCHECK --interval=1s CMD [\"false\"]\n",
            scene.image
        );
        let context = alpy_docker::Archive::new()
            .file("Dockerfile", 0o644, file.as_bytes())
            .unwrap()
            .finish();
        scene.engine.build_image(&made, context).await.unwrap();
        let healthy = docker(&["image", "inspect", "--format", "{{.Config.Healthcheck}}", &made]);
        assert!(
            healthy.contains("false"),
            "the image has a HEALTHCHECK: {healthy}"
        );
        let container = Container::new(&made)
            .label("alpy.run", &scene.unique)
            .command(["sh", "-c", "ulimit -Sn; env | grep -ic proxy; cat"])
            .stdin();
        let running = container.start(&scene.engine).await.unwrap();
        running.wait_output("\n0\n", SOON).await.unwrap();
        assert!(running.stdout().starts_with(b"1024\n"), "{:?}", running.stdout());
        let format = "{{json .State.Health}} {{json .Config.Env}}";
        let state = docker(&["inspect", "--format", format, running.id()]);
        assert_eq!(state.trim(), r#"null ["PATH=/bin"]"#);
        running.remove().await.unwrap();
    })
    .await;
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! The remote shell against real shells on a real terminal of 80 columns that echoes.
#![expect(clippy::unwrap_used, reason = "in a test, what fails shall fail loudly")]

mod guests;
mod menus;
mod terminal;

use std::time::Duration;

use alpy_console::{Console, Error, RemoteShell};
use terminal::{Scene, Shell};

const LONG: Duration = Duration::from_secs(20);

/// Runs a test body once for each kind of shell, each with a terminal and an empty working directory of its own.
macro_rules! with_each_shell {
    ($($(#[$attribute:meta])* async fn $name:ident($shell:ident: RemoteShell, $scene:ident: Scene) $body:block)+) => { $(
        $(#[$attribute])*
        mod $name {
            use super::*;

            async fn body(mut $shell: RemoteShell, $scene: &Scene) $body

            #[tokio::test]
            async fn in_busybox() {
                alpy_need::need!(busybox);
                let scene = Scene::start(Shell::Busybox);
                body(scene.attach().await, &scene).await;
            }

            #[tokio::test]
            async fn in_bash() {
                let scene = Scene::start(Shell::Bash);
                body(scene.attach().await, &scene).await;
            }

            #[tokio::test]
            async fn in_dash() {
                let scene = Scene::start(Shell::Dash);
                body(scene.attach().await, &scene).await;
            }
        }
    )+ };
}

with_each_shell! {
    async fn gives_the_output_exactly(shell: RemoteShell, scene: Scene) {
        for (command, output) in [
            ("true", ""),
            ("printf abc", "abc"),
            ("echo abc", "abc\n"),
            ("printf '\\n\\nabc\\n\\n'", "\n\nabc\n\n"),
            ("printf 'a\\r\\nb\\r'", "a\r\nb\r"),
            ("echo out; echo err >&2", "out\nerr\n"),
            ("echo 'it'\\''s \"quoted\" $HOME \\ `x` !!'", "it's \"quoted\" $HOME \\ `x` !!\n"),
            ("echo grün\necho '\t|'", "grün\n\t|\n"),
            ("cat", ""),
        ] {
            assert_eq!(shell.run(command).await.unwrap().text(), output, "{command}");
        }
        let long = "0123456789".repeat(100);
        assert_eq!(shell.run(&format!("echo {long}")).await.unwrap().text(), format!("{long}\n"));
        let log = scene.log();
        assert!(log.contains("$ echo abc\n< abc\n[exit code 0]\n"), "{log}");
        for own in ["alpy ", "</dev/null", "<alpy+", "0>."] {
            assert!(!log.contains(own), "{own:?} in {log}");
        }
    }

    async fn gives_the_exit_code(shell: RemoteShell, _scene: Scene) {
        for (command, code) in [("exit 3", 3), ("false", 1), ("kill -TERM $(sh -c 'echo $PPID')", 143), ("sh -c 'kill -9 $$'", 137)] {
            assert_eq!(shell.command(command).ignore_status().run().await.unwrap().code, code, "{command}");
        }
        match shell.run("echo why; exit 3").await {
            Err(Error::Command { command, code: 3, output, .. }) => assert_eq!((&*command, &*output), ("echo why; exit 3", "why")),
            other => panic!("{other:?}"),
        }
        assert_ne!(shell.command("if (").ignore_status().run().await.unwrap().code, 0);
        assert_eq!(shell.run("echo still here").await.unwrap().text(), "still here\n");
    }

    async fn tells_when_a_command_begins_and_how_it_ends(shell: RemoteShell, scene: Scene) {
        // The dialogue of attaching does not count.
        assert_eq!(scene.commands.take(), [""; 0]);
        shell.run("true").await.unwrap();
        shell.run("exit 3").await.unwrap_err();
        shell.command("exit 4").ignore_status().run().await.unwrap();
        shell.upload("empty", "").await.unwrap();
        assert_eq!(scene.commands.take(), [
            "true", "Done(Some(0))",
            "exit 3", "Failed(Some(3))",
            "exit 4", "Done(Some(4))",
            "# upload of 0 bytes to ./empty", "Done(Some(0))",
        ]);
        // The exit code differs between shells.
        match shell.upload("no/such/dir/file", "").await {
            Err(Error::Command { code, .. }) => assert_eq!(
                scene.commands.take(),
                ["# upload of 0 bytes to no/such/dir/file".to_owned(), format!("Failed(Some({code}))")]
            ),
            other => panic!("{other:?}"),
        }
        shell.command("echo started; sleep 60").deadline(Duration::from_millis(100)).run().await.unwrap_err();
        // As one line that is too long to be typed.
        let script = format!("# {}\n: >begun\nsleep 60", "x".repeat(2000));
        tokio::select! {
            biased;
            _ = shell.run(&script) => panic!("it sleeps"),
            found = scene.exists("begun") => found,
        };
        assert_eq!(scene.commands.take(), ["echo started; sleep 60", "Failed(None)", &script, "Cancelled"]);
    }

    async fn uploads_any_bytes(shell: RemoteShell, scene: Scene) {
        let all: Vec<u8> = (0..=255).collect();
        for (name, content) in [
            ("empty", Vec::new()),
            ("no end of line", b"abc".to_vec()),
            ("options", b"-n\n-e x\n--\n: end\n: more\n#\n%s\\n%%".to_vec()),
            ("quotes", b"it's \"$HOME\" `id` \\n \\\\ $(id) !!\r\n\ttab  \n  ".to_vec()),
            ("utf-8", "grün 水 🐇\n".into()),
            ("every byte", all.repeat(8)),
            ("it's \"odd\" $HOME", b"x".to_vec()),
            ("grün\ttouch ran\n.", b"x".to_vec()),
        ] {
            shell.upload(name, &content).await.unwrap();
            assert_eq!(scene.read(name), content, "{name}");
        }
    }

    async fn uploads_a_hundred_kilobytes(shell: RemoteShell, scene: Scene) {
        let text: String = (0..2000).map(|line| format!("{line:04} the quick brown fox's \"$DOG\" \\ 100%\n")).collect();
        let text = text.repeat(2);
        shell.upload("long", &text[..100_000]).await.unwrap();
        assert!(scene.read("long") == text.as_bytes()[..100_000]);
    }

    async fn runs_a_script(shell: RemoteShell, _scene: Scene) {
        let script = "#!/bin/sh\nset -e\nname='Zoë'\necho \"hello $name\"\nexit 0\n";
        assert_eq!(shell.run_script("configure", script).await.unwrap().text(), "hello Zoë\n");
        let failure = shell.run_script("broken", "#!/bin/sh\necho before\nexit 7\n").await.unwrap_err();
        assert!(matches!(&failure, Error::Command { code: 7, output, .. } if output == "before"), "{failure}");
    }

    async fn says_that_a_file_cannot_be_written(shell: RemoteShell, _scene: Scene) {
        let failure = shell.upload("no/such/dir/file", "rm -rf important\n").await.unwrap_err();
        assert!(matches!(failure, Error::Command { .. }), "{failure}");
        // full(4): each write is refused as on a full disk.
        let failure = shell.upload("/dev/full", "x\n".repeat(5000)).await.unwrap_err();
        assert!(failure.to_string().contains("not all could be written"), "{failure}");
        assert_eq!(shell.run("echo still here").await.unwrap().text(), "still here\n");
    }

    async fn says_that_something_was_lost_on_the_way(shell: RemoteShell, scene: Scene) {
        let console = shell.console().clone();
        for what in ["alpy_get >lost", "alpy_s=$(alpy_get)&&eval \"$alpy_s\" </dev/null"] {
            console.send_line(&format!("alpy 1 '{what}'")).await.unwrap();
            console.expect("<1+", LONG).await.unwrap();
            console.send("#touch ran\n: end 12\n").await.unwrap();
            console.expect("10 of 12 characters came", LONG).await.unwrap();
            console.expect("|1>1.", LONG).await.unwrap();
        }
        assert_eq!(shell.run("echo still here").await.unwrap().text(), "still here\n");
        assert_eq!(scene.files(), ["lost", "printk"]);
    }

    async fn runs_nothing_of_a_file_that_grows_too_large(shell: RemoteShell, scene: Scene) {
        shell.console().send_line("ulimit -f 4").await.unwrap();
        let failure = shell.upload("large", "touch ran\n".repeat(4096)).await.unwrap_err();
        assert!(matches!(failure, Error::Command { .. }), "{failure}");
        assert_eq!(shell.run("echo still here").await.unwrap().text(), "still here\n");
        assert_eq!(scene.files(), ["large", "printk"]);
    }

    async fn goes_on_after_a_deadline(shell: RemoteShell, _scene: Scene) {
        let slow = shell.command("echo started; sleep 60").deadline(Duration::from_millis(300)).run().await;
        match slow {
            Err(Error::Timeout { expected, seen, .. }) => {
                assert!(expected.contains("sleep 60"), "{expected}");
                assert!(seen.contains("started"), "{seen}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(shell.run("echo still here").await.unwrap().text(), "still here\n");
    }

    async fn goes_on_after_a_cancelled_upload(shell: RemoteShell, scene: Scene) {
        let text = "echo this must not run >ran\n".repeat(2000);
        tokio::select! {
            biased;
            _ = shell.upload("cancelled", &text) => panic!("too fast to be cancelled"),
            found = scene.written("cancelled") => found,
        };
        assert_eq!(shell.run("echo still here").await.unwrap().text(), "still here\n");
        assert_eq!(scene.files(), ["cancelled", "printk"]);
    }
}

#[tokio::test]
async fn keeps_the_kernel_quiet_while_a_command_runs() {
    alpy_need::need!(busybox, user_namespaces);
    let scene = Scene::start(Shell::BusyboxWithPrintk);
    let shell = RemoteShell::builder(scene.console.clone(), "# ")
        .deadline(LONG)
        .quiet_kernel();
    let mut shell = shell.attach().await.unwrap();
    for command in ["cat /proc/sys/kernel/printk", "#\ncat /proc/sys/kernel/printk"] {
        assert_eq!(shell.run(command).await.unwrap().text(), "1\n");
        scene.console.expect("# ", LONG).await.unwrap();
        assert_eq!(scene.read("printk"), b"7\n");
    }
}

#[tokio::test]
async fn refuses_what_is_no_shell() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let console = Console::builder().start(ours).unwrap();
    let peer = Console::builder().start(theirs).unwrap();
    peer.send("router> ").await.unwrap();
    let shell = RemoteShell::builder(console, "> ").deadline(Duration::from_millis(200));
    assert!(matches!(shell.attach().await, Err(Error::Timeout { .. })));
}

#[tokio::test]
async fn says_that_the_output_is_mutilated() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let console = Console::builder().start(ours).unwrap();
    let peer = Console::builder().start(theirs).unwrap();
    let answer = async |mutilated: bool| {
        let call = peer.expect_regex(r"alpy (\w{8}) .*\n", LONG).await.unwrap();
        let id = call.group_text(1).unwrap();
        let kernel = if mutilated {
            "[   12.345678] eth0: up\r\n"
        } else {
            ""
        };
        peer.send(format!("<{id}{kernel}|\r\nout\r\n\r\n|{id}>0.\r\n# "))
            .await
            .unwrap();
    };
    peer.send("# <alpy+").await.unwrap();
    let shell = RemoteShell::builder(console, "# ");
    let (shell, ()) = tokio::join!(shell.attach(), answer(false));
    let mut shell = shell.unwrap();
    let (outcome, ()) = tokio::join!(shell.run("x"), answer(true));
    assert!(matches!(outcome, Err(Error::Garbled { .. })), "{outcome:?}");
    let (outcome, ()) = tokio::join!(shell.run("x"), answer(false));
    assert_eq!(outcome.unwrap().text(), "out\n");
}

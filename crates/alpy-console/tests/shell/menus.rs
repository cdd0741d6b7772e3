// SPDX-License-Identifier: GPL-3.0-or-later
//! What has no POSIX shell: the command line of a vendor and the menu of a boot loader from a script, and real firmware.

use std::time::Duration;

use alpy_console::{Cli, Console, Error, Menu, ReadUntil};
use tokio::net::UnixStream;

use crate::LONG;
use crate::terminal::{Commands, Scene};

/// A console, and the far end of it.
fn pair() -> (Console, Console) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let start = |stream| Console::builder().start(stream).unwrap();
    (start(ours), start(theirs))
}

fn router() -> Cli {
    Cli::new("> ")
        .also_prompt("# ")
        .complains_with("% ")
        .gives_up_at("Traceback")
        .limit(LONG)
        .boot_limit(LONG)
        .silence(Duration::from_millis(200))
}

/// Takes a line, and answers it with its echo and this.
async fn answer(peer: &Console, command: &str, text: &str) {
    let typed = peer.expect_string("\r", LONG).await.unwrap();
    assert_eq!(typed, command);
    peer.send(format!("{command}{text}")).await.unwrap();
}

#[tokio::test]
async fn runs_commands_of_a_vendor() {
    let (console, peer) = pair();
    let far_end = async {
        peer.send("Booting ...\r\n--> ok\r\n\r\n\x1b[1mrouter\x1b[0m> ")
            .await
            .unwrap();
        answer(
            &peer,
            "show version",
            "\r\n\x1b[32mVersion\x1b[0m 1.0\r\na > b\r\n\r\nrouter> ",
        )
        .await;
        answer(&peer, "enable", "\r\nrouter# ").await;
        answer(&peer, "bogus", "\r\n      ^\r\n% Invalid input\r\n\r\nrouter# ").await;
        answer(&peer, "bogus", "\r\n% Invalid input\r\nrouter# ").await;
        answer(&peer, "conf t", "\r\nrouter(config-if)# ").await;
        answer(
            &peer,
            "show run",
            "\r\nTraceback: no memory\r\nrouter(config-if)# ",
        )
        .await;
    };
    let test = async {
        let mut cli = router().open(&console).await.unwrap();
        let version = cli.run("show version").await.unwrap();
        assert_eq!(version.text(), "Version 1.0\na > b\n\n");
        assert_eq!(cli.run("enable").await.unwrap().text(), "");
        let error = cli.run("bogus").await.unwrap_err();
        assert!(
            matches!(&error, Error::Command { code: 1, output, .. } if output.contains("% Invalid")),
            "{error}"
        );
        assert_eq!(cli.run_ignoring_status("bogus").await.unwrap().code, 1);
        assert_eq!(cli.run("conf t").await.unwrap().text(), "");
        let error = cli.run("show run").await.unwrap_err().to_string();
        assert!(
            error.starts_with("the guest has given up: Traceback: no memory"),
            "{error}"
        );
    };
    tokio::join!(test, far_end);
}

#[tokio::test]
async fn tells_of_commands_and_of_exit_codes_where_there_are_some() {
    for (cli, ends) in [
        (router(), ["Done(None)", "Failed(None)", "Done(None)"]),
        (
            router().status_command("echo $?"),
            ["Done(Some(0))", "Failed(Some(2))", "Done(Some(2))"],
        ),
    ] {
        let has_status = ends[0] == "Done(Some(0))";
        let (ours, theirs) = UnixStream::pair().unwrap();
        let commands = Commands::default();
        let console = commands.of(Console::builder()).start(ours).unwrap();
        let peer = Console::builder().start(theirs).unwrap();
        let far_end = async {
            peer.send("router> ").await.unwrap();
            for (command, text, status) in [
                ("show", "1.0", "0"),
                ("bogus", "% Invalid", "2"),
                ("bogus", "% Invalid", "2"),
            ] {
                answer(&peer, command, &format!("\r\n{text}\r\nrouter> ")).await;
                if has_status {
                    answer(&peer, "echo $?", &format!("\r\n{status}\r\nrouter> ")).await;
                }
            }
        };
        let test = async {
            let mut cli = cli.open(&console).await.unwrap();
            cli.run("show").await.unwrap();
            cli.run("bogus").await.unwrap_err();
            cli.run_ignoring_status("bogus").await.unwrap();
        };
        tokio::join!(test, far_end);
        let [shown, refused, taken] = ends;
        assert_eq!(commands.take(), ["show", shown, "bogus", refused, "bogus", taken]);
    }
}

#[tokio::test]
async fn a_complaint_may_stand_within_a_line() {
    let (console, peer) = pair();
    let cli = router().complains_within(": command not found");
    let far_end = async {
        peer.send("router> ").await.unwrap();
        answer(&peer, "ping", "\r\nping: command not found\r\nrouter> ").await;
        answer(&peer, "show", "\r\n100 % found\r\nrouter> ").await;
    };
    let test = async {
        let mut cli = cli.open(&console).await.unwrap();
        let error = cli.run("ping").await.unwrap_err();
        assert!(matches!(&error, Error::Command { code: 1, .. }), "{error}");
        // At the beginning of a line it would be one.
        assert_eq!(cli.run("show").await.unwrap().text(), "100 % found\n");
    };
    tokio::join!(test, far_end);
}

#[tokio::test]
async fn types_no_more_keys_at_once_than_firmware_takes() {
    let (console, peer) = pair();
    let far_end = async {
        peer.send("iPXE> ").await.unwrap();
        // What SeaBIOS has no room for is lost. The echo is wrapped, and a letter comes twice.
        for (keys, echo) in [
            ("set net0", "set\x1b[K net0"),
            ("/ip 10.0", "/ip 1\r\n0.0"),
            (".0.0", ".0.0"),
        ] {
            let came = peer.expect(ReadUntil::NBytes(keys.len()), LONG).await.unwrap();
            assert_eq!(came.matched_text(), keys);
            let more = peer.expect(ReadUntil::NBytes(1), Duration::from_millis(50)).await;
            assert!(matches!(more, Err(Error::Timeout { .. })), "{more:?}");
            peer.send(echo).await.unwrap();
        }
        answer(&peer, "", "\r\nok\r\niPXE> ").await;
        peer.expect("ifstat", LONG).await.unwrap();
        peer.send("if").await.unwrap();
    };
    let test = async {
        let mut ipxe = Cli::ipxe()
            .limit(Duration::from_millis(500))
            .open(&console)
            .await
            .unwrap();
        let output = ipxe.run("set net0/ip 10.0.0.0").await.unwrap();
        assert_eq!(output.text(), "ok\n");
        let error = ipxe.run("ifstat").await.unwrap_err().to_string();
        let expected = "expected the echo of \"s\" in `ifstat` within 500ms";
        assert!(error.starts_with(expected), "{error}");
    };
    tokio::join!(test, far_end);
}

#[tokio::test]
async fn asks_for_a_prompt_that_was_read_and_goes_on_after_its_limit() {
    let (console, peer) = pair();
    let far_end = async {
        answer(&peer, "", "\r\nrouter> ").await;
        answer(&peer, "ping", "\r\n").await;
        answer(&peer, "\x03", "\r\nrouter> \r\nrouter> ").await;
        answer(&peer, "show", "\r\nout\r\nrouter> ").await;
    };
    let test = async {
        let mut cli = router()
            .limit(Duration::from_millis(500))
            .open(&console)
            .await
            .unwrap();
        let error = cli.run("ping").await.unwrap_err().to_string();
        assert!(
            error.starts_with("expected the prompt after `ping` within 500ms"),
            "{error}"
        );
        assert_eq!(cli.run("show").await.unwrap().text(), "out\n");
    };
    tokio::join!(test, far_end);
}

#[tokio::test]
async fn goes_through_a_menu() {
    let (console, peer) = pair();
    let far_end = async {
        peer.send("\x1b[2J\x1b[1;1HLoading\r\n").await.unwrap();
        // It does not hear the first keys.
        peer.expect("\x1b\x1b\x1b", LONG).await.unwrap();
        peer.send("\x1b[7m Boot \x1b[0mMenu \r\n1. disk\r\n")
            .await
            .unwrap();
        peer.expect("\x1b[B\r", LONG).await.unwrap();
        peer.send("\x1b[2JBooting \x1b[1mres\x1b[0mcue\r\nlogin: ")
            .await
            .unwrap();
    };
    let menu = Menu::new()
        .limit(LONG)
        .press_until(Menu::ESCAPE, "Boot Menu")
        .wait_for("1. disk")
        .press(Menu::DOWN)
        .press(Menu::ENTER)
        .wait_for("Booting rescue");
    let (chosen, ()) = tokio::join!(menu.choose(&console), far_end);
    chosen.unwrap();
    assert_eq!(console.expect_string("login: ", LONG).await.unwrap(), "\r\n");
}

#[tokio::test]
async fn says_which_text_of_a_menu_did_not_come() {
    let short = Duration::from_millis(100);
    let (console, peer) = pair();
    peer.send("No disk\r\n").await.unwrap();
    for menu in [
        Menu::new().wait_for("Boot Menu"),
        Menu::new().press_until("x", "Boot Menu"),
    ] {
        let error = menu.clone().limit(short).choose(&console).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("expected \"Boot Menu\" within 100ms"),
            "{error}"
        );
        let error = menu.gives_up_at("No disk").choose(&console).await.unwrap_err();
        assert!(
            error.to_string().starts_with("the guest has given up: No disk"),
            "{error}"
        );
        peer.send("No disk\r\n").await.unwrap();
    }
}

#[tokio::test]
async fn shows_what_a_drawn_menu_said_as_lines() {
    let (console, peer) = pair();
    let blank = format!("\x1b[3;1H{}", " ".repeat(80)).repeat(100);
    let menu = "\x1b[2;4HBoot Menu\x1b[0m\x1b[4;4H1. disk  \x1b[5;4H2. network";
    peer.send(format!("{blank}{menu}")).await.unwrap();
    let menu = Menu::new().wait_for("2. network").wait_for("3. rescue");
    let error = menu.limit(Duration::from_millis(100)).choose(&console).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "expected \"3. rescue\" within 100ms; last lines seen:\nBoot Menu\n1. disk\n2. network"
    );
}

#[tokio::test]
async fn commands_the_shell_of_real_firmware() {
    alpy_need::need!(qemu, ovmf);
    let scene = Scene::with(
        "cp /usr/share/OVMF/OVMF_VARS_4M.fd vars && exec qemu-system-x86_64 -nodefaults -display none \
         -serial stdio -m 256 -net none \
         -drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
         -drive if=pflash,format=raw,file=vars",
    );
    let countdown = Menu::new().wait_for("to skip startup.nsh").press(Menu::ESCAPE);
    countdown
        .limit(Duration::from_secs(120))
        .choose(&scene.console)
        .await
        .unwrap();
    let mut shell = Cli::uefi_shell().open(&scene.console).await.unwrap();
    assert_eq!(shell.run("echo hello").await.unwrap().text(), "hello\n");
    let long = "0123456789".repeat(9);
    // Its screen has 80 columns.
    let wrapped = shell
        .run(&format!("echo {long}"))
        .await
        .unwrap()
        .text()
        .replace('\n', "");
    assert_eq!(wrapped, long);
    let error = shell.run("nosuch").await.unwrap_err();
    assert!(
        matches!(&error, Error::Command { code: 14, output, .. } if output.starts_with("'nosuch' is not")),
        "{error}"
    );
    assert!(shell.run("ver").await.unwrap().text().contains("EDK II"));
}

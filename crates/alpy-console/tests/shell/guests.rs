// SPDX-License-Identifier: GPL-3.0-or-later
//! Guests: a real shell on a real terminal, and in front of it a script that speaks as a guest does when it boots.

use std::time::{Duration, Instant};

use alpy_console::{Error, Guest, RemoteShell};

use crate::LONG;
use crate::terminal::Scene;

/// What a script begins with. `login NAME PASSWORD` asks until somebody gives these; with an empty password it asks for none.
const FRONT: &str = r#"
getty() { printf '\r\nWelcome to Rabbit 1.0\r\n\r\n'; prompt='rabbit login: '; }
login() {
    name=; while [ -z "$name" ]; do getty; printf "$prompt"; IFS= read -r name || exit; done
    if [ "$2" ]; then
        stty -echo; printf "${question:-Password: }"; IFS= read -r given; stty echo; echo
    fi
    if [ "$name:$given" != "$1:$2" ]; then printf '\r\nLogin incorrect\r\n'; given=; login "$@"; fi
}
kernel() { printf '[   12.345678] eth0: Link is Up\r\n'; }
"#;

const MINUTE: Duration = Duration::from_secs(60);

const BASH: &str = "exec env 'PS1=rabbit # ' bash --norc --noprofile -i";

fn scene(script: &str) -> Scene {
    Scene::with(&format!("{FRONT}\n{script}"))
}

/// The kernel is the one that runs the tests, so it stays as it is.
fn guest() -> Guest {
    Guest::busybox()
        .loud_kernel()
        .limit(LONG)
        .boot_limit(LONG)
        .silence(Duration::from_millis(400))
}

/// Logs in, and shows that the shell works.
async fn log_in(guest: &Guest, scene: &Scene) -> RemoteShell {
    let mut shell = guest.log_in(&scene.console).await.unwrap();
    works(&mut shell).await;
    shell
}

async fn works(shell: &mut RemoteShell) {
    assert_eq!(shell.run("echo it works").await.unwrap().text(), "it works\n");
    let code = shell.command("exit 3").ignore_status().run().await.unwrap().code;
    assert_eq!(code, 3);
}

#[tokio::test]
async fn logs_in_to_each_shell() {
    for shell in [
        "busybox sh -i",
        "dash -i",
        "bash --norc --noprofile -i",
        "bash -i",
    ] {
        let scene = scene(&format!("login root ''; echo 'Last login: today'; exec {shell}"));
        let mut shell = log_in(&guest(), &scene).await;
        shell.upload("file", "grün\n".repeat(1000)).await.unwrap();
        assert_eq!(scene.read("file"), "grün\n".repeat(1000).as_bytes());
    }
}

#[tokio::test]
async fn types_the_password() {
    for question in [
        "Password: ",
        "[sudo] password for root: ",
        "\x1b[1mPass\x1b[0mword: ",
    ] {
        let scene = scene(&format!("question='{question}'; login admin 's3 cr$t'; {BASH}"));
        log_in(&guest().user("admin").password("s3 cr$t"), &scene).await;
    }
    let scene = scene(&format!("question='Kennwort: '; login root x; {BASH}"));
    log_in(&guest().password("x").password_prompt("Kennwort: "), &scene).await;
}

/// What is typed in the dark is not in the transcript either.
#[tokio::test]
async fn keeps_passwords_out_of_the_transcript() {
    let scene = scene(&format!("login admin 's3 cr$t'; {BASH}"));
    let ask = "stty -echo; printf 'Password: '; IFS= read -r given; stty echo; [ \"$given\" = hunter2 ]";
    scene.write("sudo", &format!("{ask} && {BASH}"));
    let guest = guest().user("admin").password("s3 cr$t");
    let guest = guest.root_by("sh ./sudo").root_password("hunter2");
    log_in(&guest, &scene).await;
    let log = scene.log();
    assert!(!log.contains("s3 cr") && !log.contains("hunter2"), "{log}");
    assert_eq!(log.matches("> <password>\n").count(), 2, "{log}");
    assert!(
        log.contains("> admin\n") && log.contains("> sh ./sudo\n"),
        "{log}"
    );
}

/// Nobody sees a question; it is torn by what is no message of the kernel.
#[tokio::test]
async fn types_the_password_after_a_torn_question() {
    let scene = scene(&format!(
        "question='Pass[  OK  ] Started.\r\nword: '; login root secret; {BASH}"
    ));
    log_in(&guest().password("secret"), &scene).await;
}

#[tokio::test]
async fn says_who_was_refused_and_why() {
    let scene = scene("login root secret");
    match guest().password("wrong").log_in(&scene.console).await {
        Err(error @ Error::Refused { .. }) => {
            let text = error.to_string();
            assert!(
                text.starts_with("login as \"root\" was refused: Login incorrect; last"),
                "{text}"
            );
            assert!(text.contains("rabbit login: root"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn says_that_a_password_is_wanted() {
    // The second asks only when what was meant for the shell has been typed already.
    for wait in ["", "sleep 1; "] {
        let scene = scene(&format!("question=$({wait}echo 'Password: '); login root secret"));
        let error = guest().log_in(&scene.console).await.unwrap_err();
        assert!(error.to_string().contains("the guest was given none"), "{error}");
    }
}

#[tokio::test]
async fn types_nothing_where_a_password_is_wanted() {
    let scene = scene("printf 'rabbit login: '; read name; stty -echo; printf 'Password: '; cat >/dev/null");
    let error = guest().log_in(&scene.console).await.unwrap_err();
    assert!(error.to_string().contains("the guest was given none"), "{error}");
}

#[tokio::test]
async fn does_not_take_a_message_of_the_day_for_a_question() {
    let motd = "echo 'The default password: rabbit'; printf 'password: none'; sleep 1; echo ''";
    let scene = scene(&format!("login root ''; {motd}; {BASH}"));
    log_in(&guest(), &scene).await;
}

/// With a silence that is longer than all of the login may take: it is not the second prompt that is found.
#[tokio::test]
async fn finds_prompts_with_kernel_messages_in_them() {
    let torn = "[   12.345678] eth0: Link is Up\r\n";
    let front = format!(
        "getty() {{ prompt='rabbit lo{torn}gi{torn}n: {torn}'; }}; question='Pa{torn}ssword:{torn} {torn}'; login root secret"
    );
    let scene = scene(&format!("{front}; {BASH}"));
    log_in(&guest().password("secret").silence(2 * LONG), &scene).await;
}

#[tokio::test]
async fn attaches_while_the_kernel_prints() {
    let noise = "(while [ ! -e quiet ]; do kernel; sleep 0.03; done) &";
    let scene = scene(&format!("login root ''; {noise} {BASH}"));
    let mut shell = guest().log_in(&scene.console).await.unwrap();
    shell.console().send_line("touch quiet").await.unwrap();
    scene.exists("quiet").await;
    // The last message may come after that.
    shell.command("sleep 0.1").ignore_status().run().await.ok();
    works(&mut shell).await;
}

#[tokio::test]
async fn attaches_once_more_where_that_was_spoiled() {
    let spoiled =
        r#"for i in 1 2; do IFS= read -r line; eval "$line"; printf '%s' "$PS1"; done; cat >/dev/null"#;
    let scene = scene(&format!("login root ''; trap \"{BASH}\" INT; {spoiled}"));
    log_in(&guest().limit(Duration::from_secs(6)), &scene).await;
}

#[tokio::test]
async fn asks_for_a_fresh_prompt_where_one_was_torn_or_read() {
    let torn =
        "getty() { prompt='rabbit lo[  OK  ] Started.\r\ngin: '; getty() { prompt='rabbit login: '; }; }";
    let scene = scene(&format!("{torn}; login root ''; {BASH}"));
    log_in(&guest(), &scene).await;
    let scene = self::scene(&format!("login root ''; {BASH}"));
    scene.console.expect("login: ", LONG).await.unwrap();
    log_in(&guest(), &scene).await;
}

#[tokio::test]
async fn understands_a_getty_that_colours_and_asks_for_the_cursor() {
    let prompt = r"\033]0;rabbit\007\033[999;999H\033[6n\033[1;32mrabbit \033[0mlog\033[1min: \033[0m\033[6n";
    let scene = scene(&format!(
        "getty() {{ prompt='{prompt}'; }}; login root ''; {BASH}"
    ));
    log_in(&guest(), &scene).await;
}

#[tokio::test]
async fn types_a_name_again_that_got_lost() {
    let lossy = "printf 'rabbit login: '; IFS= read -r lost";
    for login in ["login root secret", "login root ''"] {
        let scene = scene(&format!("{lossy}; {login}; {BASH}"));
        let guest = guest();
        let guest = if login.contains("secret") {
            guest.password("secret")
        } else {
            guest
        };
        log_in(&guest, &scene).await;
    }
}

#[tokio::test]
async fn needs_no_login_where_the_guest_does_it() {
    let scene = scene(&format!(
        "echo; echo 'rabbit login: root (automatic login)'; sleep 1; echo motd; {BASH}"
    ));
    log_in(&guest().autologin("(automatic login)"), &scene).await;
    let enter = r"printf '\r\nPlease press Enter to activate this console. '; IFS= read -r enter";
    let scene = self::scene(&format!("{enter}; {BASH}"));
    log_in(&guest().autologin("press Enter"), &scene).await;
}

#[tokio::test]
async fn minds_no_prompt() {
    for prompt in [
        r"PS1='\[\033[1;31m\]\u@\h\[\033[0m\] \w \$ '",
        r"PS1='0123456789012345678901234567890123456789012345678901234567890123456789012345678'",
        r"PS1='first line\nlogin: '",
        "PS1=",
        r#"PROMPT_COMMAND='PS1="$(date +%s%N)> "'"#,
        r#"PS0='ps0' PS2='> ' PROMPT_COMMAND='printf "\033]0;title\007"'"#,
    ] {
        let scene = scene("login root ''; exec bash --rcfile rc -i");
        scene.write("rc", prompt);
        log_in(&guest(), &scene).await;
    }
}

#[tokio::test]
async fn attaches_again_after_the_prompt_was_changed() {
    let scene = scene(&format!("login root ''; {BASH}"));
    let shell = log_in(&guest(), &scene).await;
    shell.console().send_line("PS1='other> '").await.unwrap();
    works(&mut guest().attach(&scene.console).await.unwrap()).await;
    // A new shell knows nothing of the old one's functions.
    shell
        .console()
        .send_line("exec env 'PS1=% ' dash -i")
        .await
        .unwrap();
    works(&mut guest().attach(&scene.console).await.unwrap()).await;
}

#[tokio::test]
async fn takes_lines_with_and_without_a_return() {
    for mode in ["onlcr", "-onlcr"] {
        let scene = scene(&format!("stty {mode}; login root ''; {BASH}"));
        log_in(&guest(), &scene).await;
    }
}

/// A guest often has no LANG, and bash then breaks a line at the right edge in another way. The random prompt has 15 characters. A dumb
/// terminal must be wider: there, bash scrolls the line sideways and hides the beginning of the prompt.
#[tokio::test]
async fn finds_its_prompt_in_any_locale_and_at_any_width() {
    let narrow = ["bash --norc --noprofile -i", "dash -i", "busybox sh -i"];
    for locale in ["POSIX", "C.UTF-8"] {
        for (terminal, width, shells) in [
            ("vt100", 2, &narrow[..1]),
            ("vt100", 10, &narrow[..]),
            ("vt100", 15, &narrow[..1]),
            ("linux", 40, &narrow[..1]),
            ("dumb", 40, &narrow[..1]),
        ] {
            for shell in shells {
                let exec = format!("exec env -u LANG LC_ALL={locale} TERM={terminal} {shell}");
                let scene = scene(&format!("stty cols {width}; login root ''; {exec}"));
                log_in(&guest(), &scene).await;
            }
        }
    }
}

#[tokio::test]
async fn reads_over_a_long_boot_log() {
    let log = "[    1.234567] pci 0000:00:01.0: reg 0x10: [mem 0xfebc0000-0xfebdffff 64bit pref]";
    // 100 KB, and more than a console keeps.
    for lines in [1_250, 60_000] {
        let scene = scene(&format!("yes '{log}' | head -n {lines}; login root ''; {BASH}"));
        log_in(&guest(), &scene).await;
    }
}

/// Of the minute, the part that is alpy's passes at once: its clock is set forward. The part of a guest, that it goes on to say things
/// to nobody, is a matter of how much that is and not of how long it takes: [`reads_over_a_long_boot_log`] has more than a minute's worth at 115200
/// baud, which is 690 kB, and [`logs_in_after_a_minute_of_messages`] shows that a real minute is no different.
#[tokio::test]
async fn logs_in_to_a_guest_that_waits_for_a_minute() {
    let scene = scene(&format!("login root ''; {BASH}"));
    // Nobody reads meanwhile; the file says that the prompt is there and old.
    scene.logged("login: ").await;
    tokio::time::pause();
    tokio::time::advance(MINUTE).await;
    tokio::time::resume();
    // It is not asked for once more: the silence is longer than a test.
    log_in(&guest().silence(2 * LONG), &scene).await;
}

#[tokio::test]
#[ignore = "it takes a minute"]
async fn logs_in_after_a_minute_of_messages() {
    let scene = scene(&format!(
        "(while kernel; do sleep 0.1; done) & login root ''; kill $!; {BASH}"
    ));
    scene.logged("login: ").await;
    let mut ticks = tokio::time::interval(MINUTE);
    ticks.tick().await;
    ticks.tick().await;
    let messages = scene.log().matches("Link is Up").count();
    let start = Instant::now();
    log_in(&guest().silence(2 * LONG), &scene).await;
    println!("logged in after {messages} messages, in {:?}", start.elapsed());
    assert!(messages > 300, "{messages}");
}

#[tokio::test]
async fn gives_up_with_the_guest() {
    let panic = r"printf '[    1.5] Kernel panic - not syncing: VFS: no root\r\n[ 1.6] ---\r\n'; sleep 60";
    for script in [panic, &format!("login root ''; {panic}")] {
        let scene = scene(script);
        let error = guest().log_in(&scene.console).await.unwrap_err().to_string();
        let expected = "the guest has given up: Kernel panic - not syncing: VFS: no root; last lines seen:\n";
        assert!(error.starts_with(expected), "{error}");
    }
    // What initramfs-tools says and does where `root=` is wrong.
    let alert = "echo 'ALERT!  /dev/sda1 does not exist.  Dropping to a shell!'; while printf '(initramfs) '; do read -r line; done";
    let error = Guest::debian().log_in(&scene(alert).console).await.unwrap_err();
    assert!(
        matches!(&error, Error::GaveUp { seen, .. } if seen.contains("/dev/sda1")),
        "{error}"
    );
    let scene = scene("echo 'no bootable device'; sleep 60");
    let guest = guest().gives_up_at("no bootable device");
    assert!(matches!(
        guest.log_in(&scene.console).await,
        Err(Error::GaveUp { .. })
    ));
}

#[tokio::test]
async fn what_prepares_the_shell_is_not_among_the_last_lines() {
    let scene = scene(&format!("echo 'the last of the boot'; login root ''; {BASH}"));
    let mut shell = log_in(&guest(), &scene).await;
    let error = shell.run("echo no such NIC; exit 3").await.unwrap_err();
    let tail = scene.console.tail(30);
    for part in [
        "the last of the boot",
        "$ echo no such NIC; exit 3\nno such NIC\n",
        "[exit code 3]",
    ] {
        assert!(tail.contains(part), "no {part:?} in {tail}");
    }
    // Each byte is in `console.raw` alone.
    let (log, raw) = (scene.log(), scene.raw());
    for part in ["alpy_get", "while IFS", "PROMPT_COMMAND", "|alpy"] {
        assert!(!tail.contains(part), "{part:?} in {tail}");
        assert!(!log.contains(part), "{part:?} in {log}");
    }
    for part in ["alpy_get", "while IFS"] {
        assert!(raw.contains(part), "no {part:?} in {raw}");
    }
    assert!(matches!(error, Error::Command { code: 3, .. }), "{error}");
}

#[tokio::test]
async fn says_what_it_has_waited_for() {
    let short = Duration::from_millis(600);
    let scene = scene("echo 'still booting'; sleep 60");
    let error = guest()
        .boot_limit(short)
        .log_in(&scene.console)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("expected \"login: \" within 600ms"), "{error}");
    assert!(error.contains("still booting"), "{error}");
    let scene = self::scene("login root ''; cat >/dev/null");
    let error = guest()
        .limit(short)
        .log_in(&scene.console)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("expected a shell after login as \"root\" within 600ms"),
        "{error}"
    );
}

#[tokio::test]
async fn becomes_root() {
    let root = |password: &str| {
        format!(
            "{FRONT}\nquestion=\"[sudo] password for admin: \" name=root; ask() {{ \
        stty -echo; printf \"$question\"; IFS= read -r given; stty echo; echo; }}; \
        [ -z '{password}' ] || {{ ask; [ \"$given\" = '{password}' ] || {{ echo 'Sorry, try again.'; ask; }}; }}; \
        export WHO=root; exec env 'PS1=root # ' bash --norc --noprofile -i"
        )
    };
    let user = guest().user("admin").root_by("sh ./sudo");
    for (guest, password) in [
        (user.clone(), ""),
        (user.clone().root_password("secret"), "secret"),
    ] {
        let scene = scene(&format!("login admin ''; {BASH}"));
        scene.write("sudo", &root(password));
        let mut shell = log_in(&guest, &scene).await;
        assert_eq!(shell.run("echo $WHO").await.unwrap().text(), "root\n");
    }
    for (guest, reason) in [
        (user.clone(), "there is a question for a password"),
        (user.clone().root_password("wrong"), "Sorry, try again."),
    ] {
        let scene = scene(&format!("login admin ''; {BASH}"));
        scene.write("sudo", &root("secret"));
        let error = guest.log_in(&scene.console).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`sh ./sudo` was refused: {reason}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn powers_off_though_a_command_still_runs() {
    let scene = scene(&format!("login root ''; {BASH}"));
    let guest = guest().power_off_command("echo off >off");
    let mut shell = log_in(&guest, &scene).await;
    let slow = shell
        .command("sleep 60")
        .deadline(Duration::from_millis(100))
        .run()
        .await;
    assert!(matches!(slow, Err(Error::Timeout { .. })), "{slow:?}");
    guest.power_off(&mut shell).await.unwrap();
    scene.written("off").await;
}

/// In front of a terminal of its own, with users of its own: `root` and `admin`, both with the password `secret`. What it writes of
/// logins is gone with it.
const USERS: &str = r"
hash='$6$alpyalpy$B2mA6SL5gfhsgIv6ljRocwsFrz9SLeSVT5HNVklUmCdAgDllzy7hqrGbZfyRLr2P9APzXg1q4dQGJEUyOBV3D.'
for user in root:0 admin:4711; do
    echo ${user%:*}:x:${user#*:}:${user#*:}::/:/bin/sh >>passwd
    echo ${user%:*}:$hash:19000:0:99999:7::: >>shadow
done
mount --bind passwd /etc/passwd && mount --bind shadow /etc/shadow && mount -t tmpfs none /var/log && mount -t tmpfs none /run || exit
";

/// A guest whose login this command shows.
fn with_users(getty: &str) -> Scene {
    let scene = Scene::with("while [ ! -e users ]; do sleep 0.1; done; exec unshare -m sh ./users");
    scene.write("unfinished", &format!("{USERS}\nexec {getty}"));
    std::fs::rename(scene.path("unfinished"), scene.path("users")).unwrap();
    scene
}

async fn logs_in_through(getty: &str) {
    let start = || with_users(getty);
    let scene = start();
    log_in(&guest().password("secret"), &scene).await;
    let admin = guest().user("admin").password("secret");
    let scene = start();
    let mut shell = log_in(&admin, &scene).await;
    assert_eq!(shell.run("id -u").await.unwrap().text(), "4711\n");
    let scene = start();
    let mut shell = log_in(&admin.root_by("su -").root_password("secret"), &scene).await;
    assert_eq!(shell.run("id -u").await.unwrap().text(), "0\n");
    for (guest, why) in [
        (guest().password("wrong"), "Login incorrect"),
        (guest(), "the guest was given none"),
    ] {
        let scene = start();
        let error = guest.log_in(&scene.console).await.unwrap_err().to_string();
        assert!(
            error.starts_with("login as \"root\" was refused: ") && error.contains(why),
            "{error}"
        );
    }
}

/// `login` changes to other users, which root alone may. xtask leaves tests in a module of this name out for anybody else.
mod as_root {
    use super::*;

    #[tokio::test]
    async fn logs_in_through_a_real_login_of_debian() {
        alpy_need::need!(root);
        logs_in_through("agetty -L 115200 - vt100").await;
    }

    #[tokio::test]
    async fn logs_in_through_a_real_getty_of_busybox() {
        alpy_need::need!(root, busybox);
        logs_in_through("busybox getty -L 115200 - vt100").await;
    }

    #[tokio::test]
    async fn needs_no_login_where_a_real_getty_does_it() {
        alpy_need::need!(root);
        let scene = with_users("agetty --autologin root -L 115200 - vt100");
        log_in(&guest().autologin("(automatic login)"), &scene).await;
    }
}

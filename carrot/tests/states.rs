// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbits that begin logged in.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use alpy::console::{Guest, RemoteShell};
use alpy::pcap::Packet;
use alpy::qemu::{Machine, Recipe};
use alpy::{Link, SavedStates, Testbed, TestbedBuilder, after_login};
use alpy_need::need;
use anyhow::{Context, Result};
use carrot::ping;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Where states last, for a boot takes its time. These tests do not work with `ALPY_SAVED_STATES=off`.
fn shared() -> SavedStates {
    SavedStates::from_env().unwrap()
}

fn rabbit(test: &str, states: SavedStates) -> TestbedBuilder {
    bed(test, states, rabbit::machine().unwrap())
}

fn bed(test: &str, states: SavedStates, machine: Machine) -> TestbedBuilder {
    Testbed::builder(test)
        .machine(machine)
        .saved_states(states)
        .link(Link::new().address("192.168.0.1/24"))
        .link(Link::new().address("192.168.1.1/24"))
}

/// A rabbit that was restored; the log of the run.
async fn restored(
    test: &str,
    states: SavedStates,
    body: impl AsyncFnOnce(&Testbed, RemoteShell) -> Result<()>,
) -> String {
    let run = rabbit(test, states).run(async |bed| {
        bed.start_cpu().await?;
        assert!(bed.is_restored());
        let shell = carrot::login(bed).await?;
        body(bed, shell).await?;
        Ok::<_, anyhow::Error>(fs::read_to_string(bed.evidence().file("debug.log"))?)
    });
    run.await.unwrap()
}

#[tokio::test]
async fn a_guest_is_described_once_and_logged_in_to_once() {
    need!(docker, qemu);
    let folder = tempfile::tempdir().unwrap();
    let run = async |guest: Guest| {
        let machine = rabbit::machine().unwrap().saved_state(after_login(guest.clone()));
        let states = SavedStates::at(folder.path().join("states"));
        let run = bed("after-login", states, machine).run(async |bed| {
            bed.start_cpu().await?;
            assert!(bed.is_restored());
            let mut shell = bed.dut(0).log_in(&guest).await?;
            let name = shell.run("id -un").await?.text().into_owned();
            assert_eq!(name, "root\n");
            let console = fs::read_to_string(bed.evidence().file("console.log"))?;
            let logins = console.lines().filter(|line| *line == "> root").count();
            assert_eq!(logins, 1, "{console}");
            Ok::<_, anyhow::Error>(fs::read_to_string(bed.evidence().file("debug.log"))?)
        });
        run.await.unwrap()
    };
    let built = |log: &str| log.contains("Boot and save state logged-in");
    let first = run(rabbit::guest()).await;
    assert!(built(&first), "{first}");
    let second = run(rabbit::guest()).await;
    assert!(
        !built(&second) && second.contains("Restore saved state"),
        "{second}"
    );
    assert!(second.contains("Attach to the shell"), "{second}");
    // Of a guest that is another one, if only by a word, nothing is known.
    let third = run(rabbit::guest().gives_up_at("something else")).await;
    assert!(built(&third), "{third}");
}

#[tokio::test]
async fn random_numbers_differ_from_the_first_one_on() {
    need!(docker, qemu);
    // The kernel has just seeded its generator when the state is saved, and would not do so again for a while.
    let recipe = Recipe::new("just-seeded")
        .expect("rabbit login: ")
        .line("root")
        .expect(rabbit::PROMPT)
        .line("head -c 1 /dev/urandom >/dev/null")
        .root_shell(rabbit::PROMPT);
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let machine = rabbit::machine().unwrap().saved_state(recipe.clone());
        let run = bed("random-numbers", shared(), machine).run(async |bed| {
            bed.start_cpu().await?;
            assert!(bed.is_restored());
            let console = bed.console();
            let line = "echo \"<$(head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\"')>\"";
            console.send_line(line).await?;
            let random = console
                .expect_regex("<([0-9a-f]{32})>", Duration::from_secs(20))
                .await?;
            Ok::<_, anyhow::Error>(random.matched_text().into_owned())
        });
        let random = run.await.unwrap();
        assert!(seen.insert(random), "{seen:?}");
    }
}

/// How long a step took that has ended, by the run's log, whose lines begin with seconds.
fn took(bed: &Testbed, step: &str) -> Result<Duration> {
    let log = fs::read_to_string(bed.evidence().file("debug.log"))?;
    let at = |end: &str| {
        let line = log
            .lines()
            .find(|line| line.ends_with(&format!("{step}...{end}")));
        let seconds = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        seconds.map(Duration::from_secs_f64)
    };
    let (begin, end) = (at("").context("it began")?, at(" done").context("it ended")?);
    Ok(end - begin)
}

/// Sixteen bytes of the kernel's random numbers.
async fn random(shell: &mut RemoteShell) -> Result<String> {
    let bytes = shell
        .run("head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\"'")
        .await?;
    Ok(bytes.text().trim().to_owned())
}

#[tokio::test]
async fn two_restored_guests_differ_and_have_the_time() {
    need!(docker, qemu);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let log = restored("restored-guest", shared(), async |bed, mut shell| {
            let random = random(&mut shell).await?;
            assert_eq!(random.len(), 32, "{random}");
            seen.push(random);
            // The clock as busybox shows it, to the microsecond.
            let before = SystemTime::now();
            let time = shell.run("adjtimex | grep time.tv_").await?.text().into_owned();
            let numbers: Vec<u64> = time
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect();
            let guest =
                SystemTime::UNIX_EPOCH + Duration::from_secs(numbers[0]) + Duration::from_micros(numbers[1]);
            let after = SystemTime::now();
            // The guest has got the time that it was when the line was sent that wakes it.
            let waking = took(bed, "Wake the restored guest")?;
            let late = Duration::from_millis(100);
            assert!(
                before - waking - late < guest && guest < after + late,
                "{before:?} {guest:?} {after:?}, woken in {waking:?}"
            );
            println!("the clock is {:?} behind the end", after.duration_since(guest));
            // The RTC goes on by itself. It has whole seconds.
            let before = SystemTime::now();
            let rtc = shell.run("cat /sys/class/rtc/rtc0/since_epoch").await?;
            let rtc = SystemTime::UNIX_EPOCH + Duration::from_secs(rtc.text().trim().parse()?);
            let (second, after) = (Duration::from_secs(1), SystemTime::now());
            assert!(
                before - 2 * second < rtc && rtc < after + second,
                "{before:?} {rtc:?} {after:?}"
            );
            let links = shell
                .run("cat /sys/class/net/eth*/address")
                .await?
                .text()
                .into_owned();
            let links: Vec<_> = links.split_whitespace().collect();
            assert_eq!(links.len(), 2, "{links:?}");
            // All that came before is in the transcript, and nothing is left to be read.
            let transcript = fs::read_to_string(bed.evidence().file("console.log"))?;
            for part in ["< rabbit login: ", "> root", "< rabbit# "] {
                assert!(transcript.contains(part), "no {part:?} in {transcript}");
            }
            Ok(())
        })
        .await;
        assert!(log.contains("Restore saved state"), "{log}");
    }
    assert_ne!(seen[0], seen[1]);
}

/// What both links carry, without what differs from run to run: a process's number in an echo request, ports, times.
async fn wire(test: &str, states: SavedStates) -> Vec<Vec<String>> {
    let run = rabbit(test, states).run(async |bed| {
        bed.start_cpu().await?;
        let mut shell = carrot::login(bed).await?;
        // From here on it is the same for both: a booted guest has sent nothing before, for its links were down.
        let up = "ip address add 192.168.0.2/24 dev eth0 && ip address add 192.168.1.2/24 dev eth1 && \
                  sysctl -qw net.ipv6.conf.all.disable_ipv6=1 && ip link set eth0 up && ip link set eth1 up";
        shell.run(up).await?;
        ping::answers(bed.node(0), "192.168.0.2").await?;
        ping::answers(bed.node(1), "192.168.1.2").await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        // A driver that a guest shuts down resets its device, which once ended a restored QEMU.
        carrot::poweroff(bed, shell).await?;
        let mut links = Vec::new();
        for link in 0..2 {
            let (mut frames, mut last) = (Vec::new(), Duration::ZERO);
            bed.capture(link).for_each(|packet| {
                last = packet.frame().timestamp();
                frames.extend(normal(packet));
            })?;
            // The clock of a capture begins with a whole second, so it is behind at most.
            assert!(
                last <= now && now - last < Duration::from_secs(60),
                "{last:?} at {now:?}"
            );
            links.push(frames);
        }
        Ok::<_, anyhow::Error>((links, bed.is_restored()))
    });
    let (links, restored) = run.await.unwrap();
    assert_eq!(restored, test.contains("restored"));
    links
}

/// A frame's bytes in hexadecimal without identifiers and checksums. `None` for IPv6, which the nodes speak when they like.
fn normal(packet: &Packet<'_>) -> Option<String> {
    let mut bytes = packet.frame().bytes().to_vec();
    match bytes[12..14] {
        [0x86, 0xdd] => return None,
        [0x08, 0x00] => {
            // The IP header's identification and checksum; ICMP's checksum and identifier, and the data, in which busybox has the time.
            for range in [18..20, 24..26, 36..40] {
                bytes[range].fill(0);
            }
            bytes[42..].fill(0);
        }
        _ => {}
    }
    // A node's address is the kernel's choice.
    let macs = [0..6, 6..12].map(|range| {
        if bytes[range.clone()].starts_with(&[0x52, 0x54]) {
            "guest"
        } else {
            "other"
        }
    });
    let body: String = match bytes[12..14] {
        // Addresses are in the body of ARP too: what is asked, by whom and for whom stays.
        [0x08, 0x06] => [14..22, 28..32, 38..42]
            .into_iter()
            .flat_map(|range| &bytes[range])
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        _ => bytes[12..].iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Some(format!("{} {} {body}", macs[1], macs[0]))
}

/// The kind of a frame in the form of [`normal`].
fn kind(frame: &str) -> &'static str {
    let (_, body) = frame.rsplit_once(' ').unwrap();
    match (&body[..4], &body[14..16], body.get(44..46)) {
        // An ARP packet has its operation there, and an IPv4 packet the type of its ICMP message behind 20 bytes of header.
        ("0001", "01", _) => "ARP request",
        ("0001", "02", _) => "ARP reply",
        ("0800", _, Some("08")) => "echo request",
        ("0800", _, Some("00")) => "echo reply",
        _ => "other",
    }
}

#[tokio::test]
async fn a_restored_rabbit_and_a_booted_one_see_the_same_wire() {
    need!(docker, qemu);
    let restored = wire("wire-restored", shared()).await;
    let booted = wire("wire-booted", SavedStates::off()).await;
    assert_eq!(restored, booted);
    for link in booted {
        let kinds: Vec<_> = link.iter().map(|frame| kind(frame)).collect();
        let [asks, answers, echoes @ ..] = &kinds[..] else {
            panic!("{link:#?}")
        };
        assert_eq!([*asks, *answers], ["ARP request", "ARP reply"], "{link:#?}");
        assert_eq!(echoes, ["echo request", "echo reply"].repeat(3), "{link:#?}");
    }
}

/// The folders of the states, and the lines of a log that speak of them.
/// Such a rabbit has what it has written before the state was saved and after, and its firmware boots it again.
#[tokio::test]
async fn a_rabbit_restored_with_its_disk_writes_to_it_and_reboots() {
    need!(docker, qemu);
    let recipe = after_login(rabbit::guest())
        .line("echo first > /config/first && echo wr''itten")
        .expect("written");
    let machine = rabbit::disk_machine().unwrap().saved_state(recipe);
    let run = bed("states-disk", shared(), machine).run(async |bed| {
        bed.start_cpu().await?;
        assert!(bed.is_restored());
        let mut shell = carrot::login(bed).await?;
        shell.run("echo second > /config/second").await?;
        let mut shell = carrot::reboot(bed, shell).await?;
        let kept = shell.run("cat /config/first /config/second").await?;
        assert_eq!(kept.text(), "first\nsecond\n");
        Ok::<_, anyhow::Error>(())
    });
    run.await.unwrap();
}

fn states(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("manifest").is_file()).collect()
}

#[tokio::test]
async fn a_damaged_state_is_built_again_and_the_log_says_why() {
    need!(docker, qemu);
    let folder = tempfile::tempdir().unwrap();
    let at = || SavedStates::at(folder.path().join("states"));
    let nothing = async |_: &Testbed, _: RemoteShell| Ok(());
    let first = restored("damaged-state", at(), nothing).await;
    assert!(first.contains(": there is none yet..."), "{first}");
    let second = restored("damaged-state", at(), nothing).await;
    assert!(!second.contains("Boot and save"), "{second}");
    let [state] = &states(&folder.path().join("states"))[..] else {
        panic!("one state");
    };
    let memory = state.join("memory");
    let file = fs::File::options().read(true).write(true).open(memory).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_at(&file, &mut byte, 123_456_789).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, &[byte[0] ^ 1], 123_456_789).unwrap();
    let third = restored("damaged-state", at(), nothing).await;
    assert!(third.contains(": its file memory is damaged..."), "{third}");
    // One that is whole and of another QEMU.
    let manifest = fs::read_to_string(state.join("manifest")).unwrap();
    let (body, _) = manifest.rsplit_once("sum ").unwrap();
    let line = body.lines().nth(1).unwrap();
    let body = body.replace(line, "qemu 1.2.3 of old");
    let sum = alpy::qemu::Checksum::of(body.as_bytes());
    fs::write(state.join("manifest"), format!("{body}sum {sum}\n")).unwrap();
    let fourth = restored("damaged-state", at(), nothing).await;
    assert!(fourth.contains("QEMU 1.2.3 of old has saved it"), "{fourth}");
    assert!(fourth.contains("Boot and save"), "{fourth}");
}

/// Names the folder for a child's states.
const STATES: &str = "ALPY_TEST_STATES";

#[tokio::test]
#[ignore = "the child that another test starts"]
async fn a_child_that_builds() {
    let states = SavedStates::at(std::env::var_os(STATES).expect("another test starts this one"));
    restored("killed-builder", states, async |_, _| Ok(())).await;
}

#[tokio::test]
async fn a_builder_that_is_killed_leaves_nothing_and_holds_up_nobody() {
    need!(docker, qemu);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("states");
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["a_child_that_builds", "--exact", "--ignored", "--nocapture"])
        .env(STATES, &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let booting = async {
        while let Some(line) = log.next_line().await.unwrap() {
            if line.contains("Wait for the system to boot and log in...") {
                return true;
            }
        }
        false
    };
    assert!(timeout(Duration::from_secs(120), booting).await.unwrap());
    let names = || {
        let entries = fs::read_dir(&folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("tmp-")).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 1);
    child.kill().await.unwrap();
    // Its guardian removes that; were it killed too, the next builder would.
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let swept = async {
        while !names().is_empty() {
            tick.tick().await;
        }
    };
    timeout(Duration::from_secs(20), swept).await.unwrap();
    let log = restored("after-killed-builder", SavedStates::at(&folder), async |_, _| {
        Ok(())
    })
    .await;
    assert!(log.contains(": there is none yet..."), "{log}");
    assert!(names().is_empty(), "{:?}", names());
}

#[tokio::test]
async fn tests_that_need_a_state_at_once_build_it_once() {
    need!(docker, qemu);
    let folder = tempfile::tempdir().unwrap();
    let at = || SavedStates::at(folder.path().join("states"));
    let nothing = async |_: &Testbed, _: RemoteShell| Ok(());
    let (one, two) = tokio::join!(
        restored("at-once", at(), nothing),
        restored("at-once", at(), nothing)
    );
    let built = [&one, &two].map(|log| log.matches("Boot and save state").count() > 0);
    assert!(built[0] != built[1], "{one}\n{two}");
    let waited = if built[0] { &two } else { &one };
    assert!(waited.contains("Wait until saved state"), "{waited}");
}

#[tokio::test]
async fn a_warm_test_is_quick() {
    need!(docker, qemu);
    static BUILT: OnceCell<()> = OnceCell::const_new();
    let body = async |bed: &Testbed, mut shell: RemoteShell| {
        let up = "ip address add 192.168.0.2/24 dev eth0 && ip link set eth0 up";
        shell.run(up).await?;
        ping::answers(bed.node(0), "192.168.0.2").await
    };
    BUILT
        .get_or_init(async || drop(restored("warm-test", shared(), body).await))
        .await;
    let begin = Instant::now();
    let log = restored("warm-test", shared(), body).await;
    println!("{log}");
    println!("a warm test with a ping: {:?}", begin.elapsed());
}

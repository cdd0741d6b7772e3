// SPDX-License-Identifier: GPL-3.0-or-later
//! A real QEMU.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use alpy_need::need;
use alpy_qmp::commands::{
    AddFd, Closefd, Cont, DeviceAdd, DeviceDel, Getfd, HumanMonitorCommand, Migrate, NetdevAdd, NetdevDel,
    ObjectAdd, ObjectDel, QueryMigrate, QueryQmpSchema, QueryStatus, QueryVersion, RemoveFd, SetLink, Stop,
    SystemReset,
};
use alpy_qmp::{Disconnect, Error, ErrorClass, Options};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use crate::fake::{LONG, SHORT};
use crate::process::Process;

const NO_MACHINE: [&str; 2] = ["-M", "none"];

#[tokio::test]
async fn answers_over_a_pair_and_quits() {
    need!(qemu);
    let (client, process) = Process::qemu_on_pair(&NO_MACHINE).await;
    assert!(client.has_out_of_band());
    let version = client.execute(QueryVersion).await.expect("a version");
    assert_eq!(version, client.greeting().version);
    assert!(client.has_command("query-status").await.expect("commands"));
    assert!(!client.has_command("query-nonsense").await.expect("commands"));
    let text = client
        .execute(HumanMonitorCommand {
            command_line: "info version".into(),
        })
        .await
        .expect("a text");
    assert!(text.contains(&version.qemu.to_string()), "{text}");
    // One line of 200 kB.
    assert!(client.execute(QueryQmpSchema).await.expect("a schema").len() > 500);

    let before = client.position();
    client.quit(LONG).await.expect("the end");
    let shutdown = client.wait_for("SHUTDOWN", before, LONG).await.expect("kept");
    assert_eq!(shutdown.data["reason"], "host-qmp-quit");
    assert!(shutdown.time.is_some());
    assert!(process.status().await.success());
}

#[tokio::test]
async fn answers_on_a_path_to_one_client_at_a_time() {
    need!(qemu);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("qmp");
    let socket = format!("unix:{},server=on,wait=off", path.display());
    let _process = Process::qemu(&["-M", "none", "-qmp", &socket], Stdio::null());
    let first = Options::new().connect(&path).await.expect("the first client");
    let error = Options::new()
        .greeting_timeout(SHORT)
        .connect(&path)
        .await
        .expect_err("the second one");
    assert!(matches!(error, Error::GreetingTimeout { .. }), "{error}");
    drop(first);
    let third = Options::new()
        .connect(&path)
        .await
        .expect("a client after the first");
    third.quit(LONG).await.expect("the end");
}

#[tokio::test]
async fn comes_to_a_listener_again_and_again() {
    need!(qemu);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("qmp");
    let listener = Options::new().listen(&path).expect("a listener");
    let reconnect = reconnect_option().await;
    let chardev = format!("socket,id=qmp,path={},server=off,{reconnect}", path.display());
    let monitor = ["-M", "none", "-chardev", &chardev, "-qmp", "chardev:qmp"];
    let _process = Process::qemu(&monitor, Stdio::null());
    for _ in 0..2 {
        let client = listener.accept().await.expect("QEMU");
        client.execute(QueryVersion).await.expect("a version");
    }
}

/// Has a chardev connect again every second: QEMU 9.2 has renamed the option.
async fn reconnect_option() -> &'static str {
    let (client, _process) = Process::qemu_on_pair(&["-M", "none"]).await;
    let schema = client.execute(QueryQmpSchema).await.expect("a schema");
    if format!("{schema:?}").contains("\"reconnect-ms\"") {
        "reconnect-ms=1000"
    } else {
        "reconnect=1"
    }
}

#[tokio::test]
async fn no_event_is_missed_over_many_stops() {
    need!(qemu);
    let (client, _process) = Process::qemu_on_pair(&NO_MACHINE).await;
    for _ in 0..300 {
        let before = client.position();
        client.execute(Stop).await.expect("a stop");
        client.wait_for("STOP", before, LONG).await.expect("its event");
        client.execute(Cont).await.expect("a start");
        client.wait_for("RESUME", before, LONG).await.expect("its event");
    }
    assert!(client.execute(QueryStatus).await.expect("a status").running);
}

#[tokio::test]
async fn refusals_have_their_class() {
    need!(qemu);
    let (client, _process) = Process::qemu_on_pair(&NO_MACHINE).await;
    let class = async |request: alpy_qmp::Request<serde_json::Value>| match request.await {
        Err(Error::Server(error)) => error.class,
        other => panic!("{other:?}"),
    };
    let none = || json!({});
    assert_eq!(
        class(client.execute_raw("no-such-command", none())).await,
        ErrorClass::CommandNotFound
    );
    assert_eq!(
        class(client.execute_raw("set_link", none())).await,
        ErrorClass::GenericError
    );
    assert_eq!(
        class(client.execute_raw("stop", json!({"extra": 1}))).await,
        ErrorClass::GenericError
    );
    assert_eq!(
        class(client.execute_raw("stop", json!([1]))).await,
        ErrorClass::GenericError
    );
    let unplugged = client
        .execute(SetLink {
            name: "x".into(),
            up: false,
        })
        .reply_as();
    assert_eq!(class(unplugged).await, ErrorClass::DeviceNotFound);
    // Only few commands may be executed out of band.
    assert_eq!(
        class(client.execute_raw("stop", none()).out_of_band()).await,
        ErrorClass::GenericError
    );
    client.execute(Stop).await.expect("the client goes on");
}

#[tokio::test]
async fn an_out_of_band_command_passes_one_that_blocks() {
    need!(qemu);
    let (client, _process) = Process::qemu_on_pair(&NO_MACHINE).await;
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    // QEMU's own test does it like this (tests/qtest/qmp-test.c): reading the configuration blocks until someone writes it.
    let blocking =
        json!({"driver": "blkdebug", "node-name": "b", "config": fifo, "image": {"driver": "null-co"}});
    let mut tasks = JoinSet::new();
    let blocked = client.execute_raw("blockdev-add", blocking);
    tasks.spawn(async move { blocked.await.map(drop) });
    for _ in 0..24 {
        let behind = client.execute(QueryVersion);
        tasks.spawn(async move { behind.await.map(drop) });
    }
    tokio::task::yield_now().await;
    let in_band = client.execute(QueryVersion).timeout(SHORT).await;
    assert!(
        matches!(in_band, Err(Error::Timeout { sent: false, .. })),
        "{in_band:?}"
    );
    // It is refused, as no migration is there to be recovered, but at once.
    let start = Instant::now();
    let refused = client
        .execute_raw("migrate-recover", json!({"uri": "x"}))
        .out_of_band()
        .await;
    assert!(matches!(refused, Err(Error::Server(_))), "{refused:?}");
    assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
    assert!(tasks.try_join_next().is_none(), "all others are still blocked");
    tokio::task::spawn_blocking(move || File::options().write(true).open(fifo).expect("QEMU reads"))
        .await
        .expect("no panic");
    for result in tasks.join_all().await {
        result.expect("no longer blocked");
    }
}

#[tokio::test]
async fn a_frozen_server_is_a_timeout_on_time_and_can_thaw() {
    const TRIES: usize = 9;
    need!(qemu);
    let (client, process) = Process::qemu_on_pair(&NO_MACHINE).await;
    let limit = Duration::from_millis(100);
    let mut late = Vec::new();
    for _ in 0..TRIES {
        let before = client.position();
        process.signal(Signal::SIGSTOP);
        let (start, waited) = (Instant::now(), waited_for_a_processor());
        let error = client.execute(Stop).timeout(limit).await.expect_err("no reply");
        let waited = waited_for_a_processor() - waited;
        let after = start.elapsed().checked_sub(limit).expect("not before its time");
        late.push(after.saturating_sub(waited));
        assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
        process.signal(Signal::SIGCONT);
        // The command was sent, so it takes effect, as the error says.
        client
            .wait_for("STOP", before, LONG)
            .await
            .expect("late, but there");
        assert!(!client.execute(QueryStatus).await.expect("a status").running);
        client.execute(Cont).await.expect("a session that goes on");
    }
    // The median: a busy host may delay any single try in other ways.
    late.sort();
    assert!(late[TRIES / 2] < Duration::from_millis(50), "{late:?}");
}

/// The time for which this thread, the runtime's only one, was ready to run but did not run: the second field of schedstat
/// (Documentation/scheduler/sched-stats.rst). Zero if the kernel has no schedstat.
fn waited_for_a_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = text
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

/// What QEMU's own test of its monitor sends (tests/qtest/qmp-test.c, `test_malformed`).
#[tokio::test]
async fn a_session_outlives_malformed_input_of_any_kind() {
    need!(qemu);
    let (client, mut meddler, _process) = Process::qemu_with_meddler(&NO_MACHINE).await;
    let malformed: [&[u8]; 12] = [
        // Not a dictionary, syntax errors, lexical errors inside and outside of a string.
        b"null\n",
        b"]",
        b"{]\n",
        b"{\"execute\": \"no\xff",
        b"\xff",
        b"\x01",
        b"{\"execute\": \x01}",
        // Dictionaries that are no command.
        b"{}",
        b"{\"execute\": true}",
        b"{\"execute\": \"query-version\", \"arguments\": []}",
        b"{\"execute\": \"query-version\", \"extra\": \"key\"}",
        b"{\"execute\": \"query-version\", \"execute\": \"query-version\"}",
    ];
    for bytes in malformed {
        meddler.write_all(bytes).expect("a socket with room");
        // Behind the error, which is a reply to no command of the client's.
        for _ in 0..2 {
            let version = client.execute(QueryVersion).timeout(LONG).await;
            // An error without an id may fall to a command that has just been sent.
            if let Err(error) = &version {
                assert!(
                    matches!(error, Error::Server(_)),
                    "{}: {error}",
                    bytes.escape_ascii()
                );
            }
        }
        let version = client.execute(QueryVersion).timeout(LONG).await;
        version.unwrap_or_else(|error| panic!("after {}: {error}", bytes.escape_ascii()));
    }
}

/// As `test_qmp_preconfig` there.
#[tokio::test]
async fn a_machine_before_its_configuration_takes_few_commands_and_then_all() {
    need!(qemu);
    let (client, _process) = Process::qemu_on_pair(&["-M", "none", "-preconfig"]).await;
    let refused = client.execute_raw("query-cpus-fast", json!({})).await;
    assert!(matches!(&refused, Err(Error::Server(_))), "{refused:?}");
    let status = client
        .execute_raw("query-status", json!({}))
        .await
        .expect("allowed");
    assert_eq!(status["status"], "prelaunch");
    client
        .execute_raw("x-exit-preconfig", json!({}))
        .await
        .expect("an end of it");
    client
        .execute_raw("query-cpus-fast", json!({}))
        .await
        .expect("allowed by now");
}

#[tokio::test]
async fn a_killed_server_ends_every_wait() {
    need!(qemu);
    let (client, process) = Process::qemu_on_pair(&NO_MACHINE).await;
    process.signal(Signal::SIGSTOP);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.wait_for("SHUTDOWN", client.position(), LONG * 10).await })
    };
    let stopping = tokio::spawn(async move { client.execute(Stop).timeout(LONG * 10).await });
    tokio::task::yield_now().await;
    process.signal(Signal::SIGKILL);
    let stopped = tokio::time::timeout(LONG, stopping)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(
        matches!(
            stopped,
            Err(Error::OutcomeUnknown {
                source: Disconnect::Eof,
                ..
            })
        ),
        "{stopped:?}"
    );
    let waited = tokio::time::timeout(LONG, waiting)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(
        matches!(
            waited,
            Err(Error::Disconnected {
                source: Disconnect::Eof,
                ..
            })
        ),
        "{waited:?}"
    );
    assert_eq!(process.status().await.signal(), Some(Signal::SIGKILL as i32));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_descriptor_lands_at_its_command() {
    need!(qemu);
    let (client, process) = Process::qemu_on_pair(&NO_MACHINE).await;
    let descriptors = format!("/proc/{}/fd", process.id());
    let open = || {
        std::fs::read_dir(&descriptors)
            .expect("QEMU's descriptors")
            .count()
    };
    let before = open();
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let version = client.execute(QueryVersion);
        let client = client.clone();
        let descriptors = descriptors.clone();
        tasks.spawn(async move {
            let file = tempfile::tempfile().expect("a file");
            let inode = file.metadata().expect("metadata").ino();
            let command = AddFd {
                fdset_id: None,
                opaque: Some(number.to_string()),
            };
            let added = client.execute(command).descriptor(file).await.expect("a set");
            let theirs = std::fs::metadata(format!("{descriptors}/{}", added.fd)).expect("QEMU has it");
            assert_eq!(theirs.ino(), inode, "descriptor {number}");
            client
                .execute(RemoveFd {
                    fdset_id: added.fdset_id,
                    fd: None,
                })
                .await
                .expect("removed");
        });
        // Commands in between, some of them cancelled.
        let version = tasks.spawn(async move { _ = version.await.expect("a version") });
        if number % 2 == 0 {
            version.abort();
        }
    }
    while let Some(result) = tasks.join_next().await {
        assert!(
            result
                .as_ref()
                .err()
                .is_none_or(tokio::task::JoinError::is_cancelled),
            "{result:?}"
        );
    }
    client.execute(QueryVersion).await.expect("the client goes on");
    assert_eq!(open(), before, "no descriptor stays behind in QEMU");
}

#[tokio::test]
async fn a_command_without_its_descriptor_is_refused() {
    need!(qemu);
    let (client, _process) = Process::qemu_on_pair(&NO_MACHINE).await;
    let error = client
        .execute(Getfd { fdname: "a".into() })
        .await
        .expect_err("no descriptor");
    assert!(matches!(error, Error::Server(_)), "{error}");
    let file = tempfile::tempfile().expect("a file");
    client
        .execute(Getfd { fdname: "a".into() })
        .descriptor(file)
        .await
        .expect("with one it works");
    client
        .execute(Closefd { fdname: "a".into() })
        .await
        .expect("it was there");
    client
        .execute(Closefd { fdname: "a".into() })
        .await
        .expect_err("it no longer is");
}

#[tokio::test]
async fn a_network_is_plugged_and_unplugged() {
    need!(qemu);
    let (client, _process) = Process::qemu_on_pair(&["-M", "q35", "-m", "32", "-S"]).await;
    let dir = tempfile::tempdir().expect("a directory");
    let capture = dir.path().join("link0.pcap");
    client
        .execute(NetdevAdd::new("hubport", "link0").property("hubid", 0))
        .await
        .expect("a backend");
    let dump = ObjectAdd::new("filter-dump", "dump0").property("netdev", "link0");
    client
        .execute(dump.property("file", capture.to_str()))
        .await
        .expect("a capture");
    assert_eq!(
        std::fs::metadata(&capture).expect("a file").len(),
        24,
        "the header of a capture"
    );
    let nic = DeviceAdd::new("virtio-net-pci", "nic0")
        .property("netdev", "link0")
        .property("romfile", "");
    client
        .execute(nic.clone())
        .await
        .expect_err("this bus takes no device while the machine stands");
    for up in [false, true] {
        client
            .execute(SetLink {
                name: "link0".into(),
                up,
            })
            .await
            .expect("a cable");
    }
    client
        .execute(ObjectDel { id: "dump0".into() })
        .await
        .expect("removed");
    client
        .execute(NetdevDel { id: "link0".into() })
        .await
        .expect("removed");
    let gone = client
        .execute(DeviceDel { id: "nic0".into() })
        .await
        .expect_err("never was");
    assert!(matches!(gone, Error::Server(error) if error.class == ErrorClass::DeviceNotFound));
    let before = client.position();
    client.execute(SystemReset).await.expect("a reset");
    client.wait_for("RESET", before, LONG).await.expect("its event");
}

#[tokio::test]
async fn a_state_is_saved_through_a_descriptor() {
    need!(qemu);
    let (client, process) = Process::qemu_on_pair(&["-M", "q35", "-m", "32", "-S"]).await;
    let mut file = tempfile::tempfile().expect("a file");
    let copy = file.try_clone().expect("a copy");
    client
        .execute(Getfd {
            fdname: "state".into(),
        })
        .descriptor(copy)
        .await
        .expect("a descriptor");
    let events = json!({"capabilities": [{"capability": "events", "state": true}]});
    client
        .execute_raw("migrate-set-capabilities", events)
        .await
        .expect("a capability");
    let before = client.position();
    client
        .execute(Migrate {
            uri: "fd:state".into(),
        })
        .await
        .expect("a start");
    let ended = |event: &alpy_qmp::Event| {
        event.name == "MIGRATION" && (event.data["status"] == "completed" || event.data["status"] == "failed")
    };
    client
        .wait_until("end of MIGRATION", before, LONG, ended)
        .await
        .expect("an end");
    let migration = client.execute(QueryMigrate).await.expect("a migration");
    assert_eq!(migration.status.as_deref(), Some("completed"), "{migration:?}");
    client.quit(LONG).await.expect("the end");
    assert!(process.status().await.success());
    let mut magic = [0; 4];
    file.rewind().expect("a file");
    file.read_exact(&mut magic).expect("a state");
    assert_eq!(&magic, b"QEVM");
}

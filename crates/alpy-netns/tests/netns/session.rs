// SPDX-License-Identifier: GPL-3.0-or-later
//! The test's side against peers that are no helper, and against none at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use alpy_need::need;
use alpy_netns::{Error, LinkChange, Listener, Request, Session};

use crate::lab::{DEADLINE, Lab, name};

const SHORT: Duration = Duration::from_millis(50);

fn message(json: &str) -> Vec<u8> {
    [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat()
}

/// A session whose other side is the stream.
async fn fake(folder: &Path) -> (Session, UnixStream) {
    let listener = Listener::bind_in(folder).unwrap();
    let mut peer = UnixStream::connect(listener.socket()).unwrap();
    peer.write_all(&message(r#"{"alpy_netns":1}"#)).unwrap();
    (listener.accept(DEADLINE).await.unwrap(), peer)
}

#[tokio::test]
async fn the_socket_is_open_to_the_helper_alone_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::bind_in(folder.path()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(listener.folder().parent().unwrap()), 0o700);
    assert_eq!(mode(&listener.folder()), 0o755);
    assert_eq!(mode(&listener.socket()), 0o666);
    assert_eq!(
        listener.socket().file_name().unwrap(),
        Path::new(Listener::ARGUMENTS[1]).file_name().unwrap()
    );
    drop(listener);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_socket_may_lie_deeper_than_a_socket_address_is_long() {
    need!(user_namespaces);
    let lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(200));
    fs::create_dir(&deep).unwrap();
    let listener = Listener::bind_in(&deep).unwrap();
    // The helper sees it elsewhere: here, from within the folder.
    let mut helper = lab.enter();
    helper
        .current_dir(listener.folder())
        .arg(lab.helper())
        .args(["serve", "socket"]);
    let mut helper = crate::lab::Kill(helper.spawn().unwrap());
    let session = listener.accept(DEADLINE).await.unwrap();
    assert_eq!(
        fs::read_dir(&deep).unwrap().count(),
        0,
        "nothing is left once it has connected"
    );
    drop(session);
    assert!(helper.0.wait().unwrap().success());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let error = Listener::bind_in(Path::new("/not/there")).unwrap_err();
    assert!(error.to_string().contains("/not/there"), "{error}");
}

#[tokio::test]
async fn a_helper_that_does_not_come_or_does_not_speak_is_waited_for_no_longer_than_said() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::bind_in(folder.path()).unwrap();
    let error = listener.accept(SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), "the helper did not connect within 50ms");
    let listener = Listener::bind_in(folder.path()).unwrap();
    let _peer = UnixStream::connect(listener.socket()).unwrap();
    assert!(matches!(listener.accept(SHORT).await, Err(Error::Timeout { .. })));
    let (mut session, _peer) = fake(folder.path()).await;
    let error = session.run(&Request::new(), SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), "the helper did not answer within 50ms");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_peer_that_is_no_helper_of_this_version_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    for greeting in [
        &message(r#"{"alpy_netns":99}"#)[..],
        &message("{}"),
        &message("?"),
        b"HTTP/1.1 400 Bad Request",
    ] {
        let listener = Listener::bind_in(folder.path()).unwrap();
        let mut peer = UnixStream::connect(listener.socket()).unwrap();
        peer.write_all(greeting).unwrap();
        let error = listener.accept(DEADLINE).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_helper_that_ends_early_is_noticed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Listener::bind_in(folder.path()).unwrap();
    drop(UnixStream::connect(listener.socket()).unwrap());
    assert!(matches!(
        listener.accept(DEADLINE).await,
        Err(Error::HelperGone { .. })
    ));
    let (mut session, peer) = fake(folder.path()).await;
    drop(peer);
    let error = session.run(&Request::new(), DEADLINE).await.unwrap_err();
    assert!(
        matches!(error, Error::HelperGone { .. } | Error::Connection(_)),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_without_the_descriptors_asked_for_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, mut peer) = fake(folder.path()).await;
    peer.write_all(&message(r#"{"done":{"links":[]}}"#)).unwrap();
    let error = session
        .run(&Request::new().tap(name("eth0")), DEADLINE)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("0 descriptors came for 1 taps"),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_may_come_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, mut peer) = fake(folder.path()).await;
    let pieces = std::thread::spawn(move || {
        for byte in message(r#"{"done":{"links":[]}}"#) {
            peer.write_all(&[byte]).unwrap();
        }
        peer
    });
    session.run(&Request::new(), DEADLINE).await.unwrap();
    pieces.join().unwrap();
}

#[tokio::test]
async fn a_session_is_of_no_more_use_once_a_request_was_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, _peer) = fake(folder.path()).await;
    let dropped = tokio::time::timeout(SHORT, session.run(&Request::new(), DEADLINE)).await;
    assert!(dropped.is_err());
    assert!(matches!(
        session.run(&Request::new(), DEADLINE).await,
        Err(Error::Abandoned)
    ));
}

#[tokio::test]
async fn a_request_that_cannot_be_right_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, peer) = fake(folder.path()).await;
    let request = Request::new().link(LinkChange::of(name("eth0")).mtu_bytes(65522));
    let error = session.run(&request, DEADLINE).await.unwrap_err();
    let expected =
        "step 1 of the request (change eth0, mtu 65522): an MTU of 65522 bytes is not between 68 and 65521";
    assert_eq!(error.to_string(), expected);
    drop(session);
    let mut nothing = Vec::new();
    std::io::Read::read_to_end(&mut &peer, &mut nothing).unwrap();
    assert!(nothing.is_empty());
}

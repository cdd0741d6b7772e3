// SPDX-License-Identifier: GPL-3.0-or-later

use std::fs::File;
use std::future::IntoFuture;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use alpy_qmp::commands::{Cont, Getfd};
use alpy_qmp::{Error, Options};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::fake::{Fake, LONG};

fn getfd(name: &str) -> Getfd {
    Getfd {
        fdname: name.to_owned(),
    }
}

/// Bytes as they come, and the descriptors that come with them.
async fn receive(socket: &UnixStream) -> (String, Vec<File>) {
    receive_up_to(4096, socket).await
}

async fn receive_up_to(limit: usize, socket: &UnixStream) -> (String, Vec<File>) {
    let receive = socket.async_io(Interest::READABLE, || {
        let mut bytes = vec![0; limit];
        let mut room = nix::cmsg_space!([RawFd; 4]);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut into,
            Some(&mut room),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut files = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel has just made these descriptors for this process, and nothing else knows them.
                files.extend(
                    descriptors
                        .into_iter()
                        .map(|descriptor| unsafe { File::from_raw_fd(descriptor) }),
                );
            }
        }
        let length = message.bytes;
        Ok((String::from_utf8_lossy(&bytes[..length]).into_owned(), files))
    });
    tokio::time::timeout(LONG, receive)
        .await
        .expect("in time")
        .expect("a message")
}

#[tokio::test]
async fn a_descriptor_goes_with_the_first_byte_of_its_command() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let file = tempfile::tempfile().expect("a file");
    let inode = file.metadata().expect("metadata").ino();
    let sent = tokio::spawn(client.execute(getfd("a")).descriptor(file).into_future());
    let (text, files) = receive(&fake.socket).await;
    assert_eq!(text, r#"{"execute":"getfd","arguments":{"fdname":"a"},"id":1}"#);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].metadata().expect("metadata").ino(), inode);
    fake.send("{\"return\": {}, \"id\": 1}\r\n").await;
    sent.await.expect("no panic").expect("a reply");
}

#[tokio::test]
async fn a_descriptor_never_goes_with_the_command_before() {
    let (client, fake) = Fake::pair(Options::new()).await;
    let first = tokio::spawn(client.execute(Cont).into_future());
    assert_eq!(receive(&fake.socket).await.0, r#"{"execute":"cont","id":1}"#);
    // While one command is under way, these two are left to the connection's task, which writes as much at once as it may.
    let second = tokio::spawn(client.execute(Cont).into_future());
    let file = tempfile::tempfile().expect("a file");
    let third = tokio::spawn(client.execute(getfd("a")).descriptor(file).into_future());
    // The kernel gives what was written before a descriptor together with it, unless one reads no further.
    let cont = r#"{"execute":"cont","id":2}"#;
    let (text, files) = receive_up_to(cont.len(), &fake.socket).await;
    assert_eq!((text.as_str(), files.len()), (cont, 0));
    let (text, files) = receive(&fake.socket).await;
    assert!(text.starts_with(r#"{"execute":"getfd""#), "{text}");
    assert_eq!(files.len(), 1);
    for task in [first, second, third] {
        task.abort();
    }
}

#[tokio::test]
async fn no_descriptor_overtakes_another() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let mut tasks = Vec::new();
    let mut inodes = Vec::new();
    for name in ["a", "b"] {
        let file = tempfile::tempfile().expect("a file");
        inodes.push(file.metadata().expect("metadata").ino());
        tasks.push(tokio::spawn(
            client.execute(getfd(name)).descriptor(file).into_future(),
        ));
    }
    tasks.push(tokio::spawn(async move { client.execute(Cont).await }));
    for (number, (name, inode)) in ["a", "b"].into_iter().zip(inodes).enumerate() {
        let (text, files) = receive(&fake.socket).await;
        // What has no descriptor may follow in the same message, but the second descriptor waits until the first has found
        // its command.
        let own = format!(
            r#"{{"execute":"getfd","arguments":{{"fdname":"{name}"}},"id":{}}}"#,
            number + 1
        );
        assert!(text.starts_with(&own), "{text}");
        assert_eq!(text.matches("getfd").count(), 1, "{text}");
        assert_eq!(
            files
                .iter()
                .map(|file| file.metadata().expect("metadata").ino())
                .collect::<Vec<_>>(),
            [inode]
        );
        assert!(fake.is_quiet().await || number == 1);
        fake.send(&format!("{{\"return\": {{}}, \"id\": {}}}\r\n", number + 1))
            .await;
    }
    fake.send("{\"return\": {}, \"id\": 3}\r\n").await;
    for task in tasks {
        task.await.expect("no panic").expect("a reply");
    }
}

#[tokio::test]
async fn a_descriptor_is_closed_here_once_it_is_sent_or_given_up() {
    let (client, mut fake) = Fake::pair(Options::new()).await;
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pipe");
    let sent = tokio::spawn(
        client
            .execute(getfd("a"))
            .descriptor(OwnedFd::from(writer))
            .into_future(),
    );
    let (_, files) = receive(&fake.socket).await;
    // The pipe ends when the server's copy does, so this side has none left, although there is no reply yet.
    (&files[0]).write_all(b"x").expect("a pipe");
    drop(files);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("the end of the pipe");
    assert_eq!(text, "x");

    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pipe");
    let waiting = tokio::spawn(
        client
            .execute(getfd("b"))
            .descriptor(OwnedFd::from(writer))
            .into_future(),
    );
    assert!(fake.is_quiet().await);
    waiting.abort();
    assert!(waiting.await.expect_err("aborted").is_cancelled());
    std::io::Read::read_to_string(&mut reader, &mut text).expect("the end of the pipe");
    sent.abort();
}

#[tokio::test]
async fn a_stream_that_is_no_socket_refuses_descriptors() {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    let server = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        theirs
            .write_all(crate::fake::GREETING.as_bytes())
            .await
            .expect("the client reads");
        let mut command = [0; 200];
        assert!(theirs.read(&mut command).await.expect("a command") > 0);
        theirs
            .write_all(b"{\"return\": {}, \"id\": 0}\r\n")
            .await
            .expect("the client reads");
    };
    let (client, ()) = tokio::join!(Options::new().attach_stream(ours), server);
    let client = client.expect("a connection");
    let file = tempfile::tempfile().expect("a file");
    let error = client
        .execute(getfd("a"))
        .descriptor(file)
        .await
        .expect_err("no way to send it");
    assert!(matches!(error, Error::NoDescriptors { .. }));
    assert!(error.to_string().contains(r#""fdname":"a""#), "{error}");
}

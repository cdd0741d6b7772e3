// SPDX-License-Identifier: GPL-3.0-or-later
//! Engines that misbehave: a few lines of HTTP on a unix socket, scripted.

#![expect(clippy::unwrap_used, reason = "in a test, what fails shall fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alpy_docker::{Container, Engine, Error};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

/// What the fake engine does with a request.
enum Reply {
    Json(&'static str),
    Status(u16, &'static str),
    Raw(&'static [u8]),
    /// Takes the request and says nothing.
    Silence,
    /// Closes the connection.
    Close,
}

use Reply::{Close, Json, Raw, Silence, Status};

type Script = fn(&str) -> Reply;

/// A fake engine, gone when dropped. Each connection carries one request, as bollard's do.
struct Fake {
    folder: TempDir,
}

impl Fake {
    /// Answers by method and path, such as `GET /version`.
    fn new(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&script);
                tokio::spawn(async move { serve(stream, &*script).await });
            }
        });
        Self { folder }
    }

    /// One that introduces itself as an engine does, and follows the script from there.
    fn polite(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(move |request| match request {
            "GET /version" => Json(r#"{"Version":"99.0","ApiVersion":"1.99","MinAPIVersion":"1.44"}"#),
            "GET /info" => Json(r#"{"SecurityOptions":["name=seccomp,profile=default","name=rootless"]}"#),
            other => script(other),
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    async fn connect(&self) -> Result<Engine, Error> {
        Engine::connect_to(&format!("unix://{}", self.socket().display())).await
    }
}

async fn serve(mut stream: UnixStream, script: &(dyn Fn(&str) -> Reply + Send + Sync)) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split([' ', '?']);
    let asked = format!("{} {}", words.next().unwrap(), words.next().unwrap());
    let answer = |status: u16, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let bytes = match script(&asked) {
        Json(body) => answer(200, body),
        Status(status, body) => answer(status, body),
        Raw(bytes) => bytes.to_vec(),
        Silence => return std::future::pending().await,
        Close => return,
    };
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

const LIMIT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_newer_engine_introduces_itself() {
    let fake = Fake::polite(|_| Close);
    let engine = fake.connect().await.unwrap();
    let info = engine.info();
    assert_eq!(
        (&*info.version, &*info.api_version, info.rootless, info.podman),
        ("99.0", "1.99", true, false)
    );
    assert_eq!(info.found_by, "the caller");
}

#[tokio::test]
async fn an_older_engine_and_podman_introduce_themselves() {
    let fake = Fake::new(|request| match request {
        "GET /version" => Json(
            r#"{"Version":"3.0.1","ApiVersion":"1.40","Components":[{"Name":"Podman Engine","Version":"3.0.1"}]}"#,
        ),
        _ => Json("{}"),
    });
    let engine = fake.connect().await.unwrap();
    let info = engine.info();
    assert_eq!(
        (&*info.api_version, info.rootless, info.podman),
        ("1.40", false, true)
    );
}

/// Garbage, an error, an answer of another kind, nothing at all: each is an error that names the socket.
#[tokio::test]
async fn what_is_no_engine_is_told_apart() {
    let scripts: [(Script, &str); 5] = [
        (|_| Raw(b"\x00\xffgarbage\n\n\n"), ""),
        (|_| Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), ""),
        (|_| Json("[1, 2"), ""),
        (|_| Status(500, r#"{"message":"out of order"}"#), "out of order"),
        (|_| Close, ""),
    ];
    for (number, (script, reason)) in scripts.into_iter().enumerate() {
        let fake = Fake::new(script);
        let error = timeout(Duration::from_secs(20), fake.connect())
            .await
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{number}: {error:?}");
        let text = error.to_string();
        assert!(
            text.contains(fake.socket().to_str().unwrap()) && text.contains(reason),
            "{number}: {text}"
        );
    }
}

#[tokio::test]
async fn no_socket_and_no_listener_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let address = format!("unix://{}", socket.display());
    let error = Engine::connect_to(&address).await.unwrap_err().to_string();
    assert!(
        error.contains(&address) && error.contains("no such socket"),
        "{error}"
    );
    drop(UnixListener::bind(&socket).unwrap());
    let error = Engine::connect_to(&address).await.unwrap_err().to_string();
    assert!(error.contains("nothing listens there"), "{error}");
    let error = Engine::connect_to("tcp://localhost:2375").await.unwrap_err();
    assert!(matches!(error, Error::UnsupportedAddress { .. }), "{error:?}");
}

/// Root may use any socket: what the kernel looks at is the thread's file system user, so the test changes that.
#[tokio::test]
async fn a_socket_that_lets_nobody_in_is_told_apart() {
    let fake = Fake::polite(|_| Close);
    std::fs::set_permissions(fake.socket(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let own = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
    let error = fake.connect().await.unwrap_err();
    nix::unistd::setfsuid(own);
    assert!(
        matches!(&error, Error::Denied { socket, .. } if *socket == fake.socket()),
        "{error:?}"
    );
    assert!(error.to_string().contains("usermod -aG docker"), "{error}");
}

/// Time stands still until everybody waits, and then jumps to the next deadline: no second passes in this test.
#[tokio::test(start_paused = true)]
async fn an_engine_that_accepts_and_says_nothing_costs_five_seconds() {
    let fake = Fake::new(|_| Silence);
    let start = Instant::now();
    let error = fake.connect().await.unwrap_err().to_string();
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(error.contains("no answer within 5s"), "{error}");
}

/// The engine freezes at one request after the other: each time the error names the step, at its deadline.
#[tokio::test]
async fn an_engine_that_freezes_is_a_timeout_that_names_the_step() {
    let steps = [
        ("POST /containers/create", "create a container of image i"),
        ("GET /events", "watch a container of image i"),
        ("POST /containers/id/attach", "attach to a container of image i"),
        ("POST /containers/id/start", "start a container of image i"),
    ];
    for (frozen, step) in steps {
        let fake = Fake::polite(move |request| match request {
            request if request == frozen => Silence,
            "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
            "GET /events" => Json(concat!(
                r#"{"Type":"container","Action":"create","Actor":{"ID":"id"}}"#,
                "\n"
            )),
            "POST /containers/id/attach" => {
                Raw(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            }
            "DELETE /containers/id" => Status(404, "{}"),
            _ => Close,
        });
        let engine = fake.connect().await.unwrap().request_limit(LIMIT);
        let start = Instant::now();
        let error = Container::new("i").start(&engine).await.unwrap_err();
        assert!(
            matches!(&error, Error::Timeout { step: named, .. } if named == step),
            "{frozen}: {error:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{frozen}");
    }
}

/// The engine's own words, and the container that could not start is asked to be removed.
#[tokio::test]
async fn a_container_that_cannot_start_is_removed() {
    let removed = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&removed);
    let fake = Fake::polite(move |request| match request {
        "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
        "GET /events" => Json(concat!(
            r#"{"Type":"container","Action":"create","Actor":{"ID":"id"}}"#,
            "\n"
        )),
        "POST /containers/id/attach" => {
            Raw(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        }
        "POST /containers/id/start" => Status(500, r#"{"message":"no space left on device"}"#),
        "DELETE /containers/id" => {
            told.notify_one();
            Status(204, "")
        }
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let error = Container::new("i")
        .command(["a", "b c"])
        .start(&engine)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        r#"a container of image i cannot start ["a", "b c"]: no space left on device"#
    );
    timeout(Duration::from_secs(10), removed.notified())
        .await
        .unwrap();
}

/// An engine that goes away in the middle ends every wait, and says so.
#[tokio::test]
async fn an_engine_that_goes_away_ends_the_wait() {
    let fake = Fake::polite(|request| match request {
        "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
        "GET /events" => Json(concat!(
            r#"{"Type":"container","Action":"create","Actor":{"ID":"id"}}"#,
            "\n"
        )),
        "POST /containers/id/attach" => {
            Raw(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        }
        "POST /containers/id/start" => Status(204, ""),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let running = Container::new("i").command(["a"]).start(&engine).await.unwrap();
    let error = running.wait(Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(&error, Error::Lost { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("wait for the end of") && text.contains("stream of events"),
        "{text}"
    );
    let error = running.remove().await.unwrap_err();
    assert!(
        matches!(&error, Error::Lost { step, .. } if step.contains("remove")),
        "{error:?}"
    );
}

/// Two who remove one container at once: the second sees it through, and both are content.
#[tokio::test]
async fn a_removal_under_way_is_waited_for() {
    let answers = [
        (200, r#"{"StatusCode":137}"#),
        (404, r#"{"message":"No such container: id"}"#),
    ];
    for (status, body) in answers {
        let waited = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&waited);
        let fake = Fake::polite(move |request| match request {
            "DELETE /containers/id" => Status(
                409,
                r#"{"message":"removal of container id is already in progress"}"#,
            ),
            "POST /containers/id/wait" => {
                told.notify_one();
                Status(status, body)
            }
            _ => Close,
        });
        fake.connect().await.unwrap().remove("id").await.unwrap();
        timeout(Duration::from_secs(10), waited.notified()).await.unwrap();
    }
}

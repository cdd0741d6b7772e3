// SPDX-License-Identifier: GPL-3.0-or-later
//! Engines that misbehave: a few lines of HTTP on a unix socket, scripted.

#![expect(clippy::unwrap_used, reason = "in a test, what fails shall fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alpy_docker::{Container, Engine, Error, address};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

/// What the fake engine does with a request.
enum Reply {
    Json(&'static str),
    Status(u16, &'static str),
    Raw(&'static [u8]),
    /// Sends these bytes and keeps the connection open.
    Open(&'static [u8]),
    /// Takes the request and says nothing.
    Silence,
    /// Closes the connection.
    Close,
}

use Reply::{Close, Json, Open, Raw, Silence, Status};

type Script = fn(&str) -> Reply;

/// A fake engine, gone when dropped. Each connection carries one request, as bollard's do.
struct Fake {
    folder: TempDir,
    /// All requests, with their heads and bodies.
    heard: Arc<Mutex<String>>,
}

impl Fake {
    /// Answers by method and path, such as `GET /version`.
    fn new(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let script = Arc::new(script);
        let heard = Arc::<Mutex<String>>::default();
        let hearing = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, heard) = (Arc::clone(&script), Arc::clone(&hearing));
                tokio::spawn(async move { serve(stream, &*script, &heard).await });
            }
        });
        Self { folder, heard }
    }

    /// One that introduces itself as an engine does, and follows the script from there.
    fn polite(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(move |request| match request {
            "GET /_ping" => Json("OK"),
            "GET /version" => Json(r#"{"Version":"99.0","ApiVersion":"1.99","MinAPIVersion":"1.44"}"#),
            "GET /info" => Json(r#"{"SecurityOptions":["name=seccomp,profile=default","name=rootless"]}"#),
            other => script(other),
        })
    }

    /// One that introduces itself as Podman does.
    fn podman(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(move |request| match request {
            "GET /_ping" => Raw(PODMAN),
            other => script(other),
        })
    }

    fn heard(&self, text: &str) -> usize {
        self.heard.lock().unwrap().matches(text).count()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    async fn connect(&self) -> Result<Engine, Error> {
        Engine::connect_to(&format!("unix://{}", self.socket().display())).await
    }
}

async fn serve(
    mut stream: UnixStream,
    script: &(dyn Fn(&str) -> Reply + Send + Sync),
    heard: &Mutex<String>,
) {
    let mut request = Vec::new();
    while !complete(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    heard.lock().unwrap().push_str(&request);
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
        Open(bytes) => {
            let _ = stream.write_all(bytes).await;
            return std::future::pending().await;
        }
        Silence => return std::future::pending().await,
        Close => return,
    };
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

/// The head is there, and as much after it as it says.
fn complete(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request);
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head.split_once("content-length: ");
    length.is_none_or(|(_, length)| body.len() >= length.lines().next().unwrap().parse().unwrap())
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
async fn an_older_engine_introduces_itself() {
    let fake = Fake::new(|request| match request {
        "GET /version" => Json(r#"{"Version":"3.0.1","ApiVersion":"1.40"}"#),
        _ => Json("{}"),
    });
    let engine = fake.connect().await.unwrap();
    let info = engine.info();
    assert_eq!(
        (&*info.api_version, info.rootless, info.podman),
        ("1.40", false, false)
    );
}

/// What Podman 4.3.1 answers to a ping. It is asked for nothing that takes it long.
const PODMAN: &[u8] =
    b"HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nBuildKit-Version: \r\nDocker-Experimental: true\r\n\
    Libpod-API-Version: 4.3.1\r\nServer: Libpod/4.3.1 (linux)\r\nContent-Length: 2\r\n\r\nOK";

#[tokio::test]
async fn podman_introduces_itself() {
    let fake = Fake::new(|request| match request {
        "GET /_ping" => Raw(PODMAN),
        _ => Silence,
    });
    let engine = fake.connect().await.unwrap();
    let info = engine.info();
    assert_eq!(
        (&*info.version, &*info.api_version, info.podman),
        ("4.3.1", "1.41", true)
    );
    // The socket is this process's own.
    assert_eq!(info.rootless, !nix::unistd::geteuid().is_root());
}

/// An engine in another container or on another machine, or one that may not enter a folder: one line, with the remedy.
#[tokio::test]
async fn a_folder_that_the_engine_does_not_see_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap().to_owned();
    // Docker's words for a folder that is not there and for one that it may not enter, and Podman's.
    for words in [
        "invalid mount config for type \"bind\": bind source path does not exist: ",
        "invalid mount config for type \"bind\": permission denied: stat ",
        "no such file or directory: statfs ",
    ] {
        let answer: &'static str = format!(r#"{{"message":{:?}}}"#, format!("{words}{here}")).leak();
        let fake = Fake::polite(move |request| match request {
            "POST /containers/create" => Status(400, answer),
            _ => Close,
        });
        let engine = fake.connect().await.unwrap();
        let checked = engine.check_shares(folder.path()).await.unwrap_err();
        let started = Container::new("i")
            .bind(&here, "/run/x")
            .start(&engine)
            .await
            .unwrap_err();
        for error in [checked, started] {
            assert!(
                matches!(&error, Error::NotShared { path, .. } if path == folder.path()),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(text.contains("; remedy: ") && text.lines().count() == 1, "{text}");
        }
        // What is not there for this process either is the caller's mistake.
        let absent = folder.path().join("absent");
        let error = Container::new("i")
            .bind(absent, "/run/x")
            .start(&engine)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
    let fake = Fake::polite(|request| match request {
        "POST /containers/create" => Status(404, r#"{"message":"No such image: x"}"#),
        _ => Close,
    });
    fake.connect()
        .await
        .unwrap()
        .check_shares(folder.path())
        .await
        .unwrap();
}

/// The engine's API is JSON, which has no other text.
#[tokio::test]
async fn a_path_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/run/\xff"));
    let fake = Fake::polite(|_| Close);
    let engine = fake.connect().await.unwrap();
    let error = Container::new("i")
        .bind(odd, "/run/x")
        .start(&engine)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("must be UTF-8"), "{error}");
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
        assert!(
            matches!(error, Error::NoEngine(address::Error::Unreachable { .. })),
            "{number}: {error:?}"
        );
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
    assert!(
        matches!(error, Error::NoEngine(address::Error::UnsupportedAddress { .. })),
        "{error:?}"
    );
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
        matches!(&error, Error::NoEngine(address::Error::Denied { socket, .. }) if *socket == fake.socket()),
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

/// Podman has no event "destroy", and the exit code twice. It removes by itself what has ended.
#[tokio::test]
async fn podman_tells_of_an_end_in_its_own_words() {
    let fake = Fake::podman(|request| match request {
        "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
        "GET /events" => Json(concat!(
            r#"{"status":"create","Type":"container","Action":"create","Actor":{"ID":"id","Attributes":{"containerExitCode":"0"}}}"#,
            "\n",
            r#"{"status":"die","Type":"container","Action":"die","Actor":{"ID":"id","Attributes":{"containerExitCode":"3","exitCode":"3"}}}"#,
            "\n",
            r#"{"status":"remove","Type":"container","Action":"remove","Actor":{"ID":"id","Attributes":{"containerExitCode":"0"}}}"#,
            "\n"
        )),
        "POST /containers/id/attach" => {
            Raw(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        }
        "POST /containers/id/start" => Status(204, ""),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let running = Container::new("i").start(&engine).await.unwrap();
    let output = running.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(output.status.code(), 3);
    running.remove().await.unwrap();
    assert_eq!(fake.heard("DELETE"), 0);
    // It compares what is asked for with its own names, of which "die" is none.
    assert_eq!((fake.heard("%22died%22"), fake.heard("%22remove%22")), (1, 1));
}

/// Podman ends the stream of events in the middle, when it begins a new file of its log. What it tells again is told once.
#[tokio::test]
async fn podman_is_asked_again_for_events() {
    const CREATE: &str = r#"{"Type":"container","Action":"create","Actor":{"ID":"id"}}"#;
    const DIE: &str =
        r#"{"Type":"container","Action":"die","Actor":{"ID":"id","Attributes":{"containerExitCode":"3"}}}"#;
    const REMOVE: &str = r#"{"Type":"container","Action":"remove","Actor":{"ID":"id"}}"#;
    let answers: Vec<&'static str> = [vec![CREATE], vec![CREATE, DIE], vec![DIE, REMOVE]]
        .map(|lines| &*(lines.join("\n") + "\n").leak())
        .to_vec();
    let asked = AtomicUsize::new(0);
    let fake = Fake::podman(move |request| match request {
        "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
        "GET /events" => Json(answers.get(asked.fetch_add(1, Ordering::Relaxed)).unwrap_or(&"")),
        "POST /containers/id/attach" => {
            Raw(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        }
        "POST /containers/id/start" => Status(204, ""),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let ends = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ends);
    let container = Container::new("i").on_end(move |_| _ = counted.fetch_add(1, Ordering::Relaxed));
    let running = container.start(&engine).await.unwrap();
    let output = running.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(output.status.code(), 3);
    running.remove().await.unwrap();
    assert_eq!(ends.load(Ordering::Relaxed), 1);
    assert_eq!(fake.heard("DELETE"), 0);
}

/// A command that does not exist is noticed where the container is attached to.
#[tokio::test]
async fn podman_refuses_a_command_before_its_start() {
    let fake = Fake::podman(|request| match request {
        "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
        "GET /events" => Json(concat!(
            r#"{"Type":"container","Action":"create","Actor":{"ID":"id"}}"#,
            "\n"
        )),
        "POST /containers/id/attach" => Status(
            409,
            r#"{"cause":"OCI runtime error","message":"preparing container id for attach: no such program","response":409}"#,
        ),
        "DELETE /containers/id" => Status(200, "[]"),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let error = Container::new("i").start(&engine).await.unwrap_err();
    assert!(
        matches!(&error, Error::StartFailed { reason, .. } if reason.contains("no such program")),
        "{error:?}"
    );
}

/// With `userns-remap`, a helper in a namespace of its own could not make a tap in that of a node.
#[tokio::test]
async fn where_users_are_mapped_containers_have_the_host_s_namespace() {
    for (option, expected) in [("name=userns", 1), ("name=cgroupns", 0)] {
        let fake = Fake::new(move |request| match request {
            "GET /_ping" => Json("OK"),
            "GET /version" => Json(r#"{"Version":"20.10.24","ApiVersion":"1.41"}"#),
            "GET /info" => Json(match option {
                "name=userns" => r#"{"SecurityOptions":["name=seccomp,profile=default","name=userns"]}"#,
                _ => r#"{"SecurityOptions":["name=seccomp,profile=default","name=cgroupns"]}"#,
            }),
            _ => Close,
        });
        let engine = fake.connect().await.unwrap();
        assert_eq!(engine.info().remapped, expected == 1);
        Container::new("i").start(&engine).await.unwrap_err();
        assert_eq!(fake.heard(r#""UsernsMode":"host""#), expected, "{option}");
    }
}

/// Podman does not remove a node before the containers that name it.
#[tokio::test]
async fn podman_hears_of_no_node_but_of_its_namespaces() {
    let fake = Fake::podman(|request| match request {
        "GET /containers/node/json" => {
            Json(r#"{"Id":"node","State":{"Status":"running","Running":true,"Pid":77}}"#)
        }
        "GET /containers/ended/json" => {
            Json(r#"{"Id":"ended","State":{"Status":"stopped","Running":false,"Pid":0}}"#)
        }
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let application = |node| Container::new("i").network_of(node).pid_of(node);
    application("node").start(&engine).await.unwrap_err();
    assert_eq!(fake.heard(r#""NetworkMode":"ns:/proc/77/ns/net""#), 1);
    assert_eq!(fake.heard(r#""PidMode":"ns:/proc/77/ns/pid""#), 1);
    let error = application("ended").start(&engine).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error:?}");
    // And it would make the folder.
    let bind = Container::new("i").bind("/no/such/folder", "/in");
    let error = bind.start(&engine).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}

/// A state that Docker does not have, and an error of the server where Docker says 404.
#[tokio::test]
async fn podman_has_states_and_errors_of_its_own() {
    let fake = Fake::podman(|request| match request {
        "GET /containers/json" => Json(r#"[{"Id":"id","State":"stopped"}]"#),
        "DELETE /containers/id" => Status(
            500,
            r#"{"cause":"no such container","message":"container id does not exist in database: no such container","response":500}"#,
        ),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    assert_eq!(engine.remove_labelled("a=b").await.unwrap(), ["id"]);
}

/// Podman reads the tag in the name, and one change in each parameter.
#[tokio::test]
async fn an_import_says_each_change_by_itself() {
    let fake = Fake::podman(|request| match request {
        "POST /images/create" => {
            Json(r#"{"status":"sha256:1","progress":"","progressDetail":{},"id":"sha256:1"}"#)
        }
        "GET /images/json" => Json("[]"),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    engine
        .import_image("name:1", b"archive".to_vec(), &["ENV A=b", "ENV C=d"])
        .await
        .unwrap();
    assert_eq!(fake.heard("&changes="), 3);
    assert_eq!(fake.heard("&repo=%6E%61%6D%65%3A%31&"), 1);
    assert_eq!(fake.heard("\r\n\r\narchive"), 1);
}

/// The image of a name, two that had it before, and one that has another name now.
const IMAGES: &str = r#"[
    {"Id":"sha256:new","Created":1300,"RepoTags":["name:1"],"ParentId":"","RepoDigests":[],"Size":1,"SharedSize":1,"Labels":{},"Containers":0},
    {"Id":"sha256:just","Created":1200,"RepoTags":["<none>:<none>"],"ParentId":"","RepoDigests":[],"Size":1,"SharedSize":1,"Labels":{},"Containers":0},
    {"Id":"sha256:long","Created":1100,"RepoTags":[],"ParentId":"","RepoDigests":[],"Size":1,"SharedSize":1,"Labels":{},"Containers":0},
    {"Id":"sha256:other","Created":1000,"RepoTags":["other:1"],"ParentId":"","RepoDigests":[],"Size":1,"SharedSize":1,"Labels":{},"Containers":0}
]"#;

/// A container may be under way to an image that has just lost its name.
#[tokio::test]
async fn an_import_removes_images_that_lost_the_name_a_minute_ago() {
    let fake = Fake::polite(|request| match request {
        "POST /images/create" => Json(r#"{"status":"sha256:1"}"#),
        "GET /images/json" => Json(IMAGES),
        "DELETE /images/sha256:long" => Json("[]"),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    engine.import_image("name:1", Vec::new(), &[]).await.unwrap();
    assert_eq!(
        (fake.heard("DELETE "), fake.heard("DELETE /images/sha256:long")),
        (1, 1)
    );
}

const UPGRADED: &str = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
const CREATED: &str = "{\"Type\":\"container\",\"Action\":\"create\",\"Actor\":{\"ID\":\"id\"}}\n";
const DIED: &str = "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"ID\":\"id\",\"Attributes\":{\"exitCode\":\"0\"}}}\n";
const DESTROYED: &str = "{\"Type\":\"container\",\"Action\":\"destroy\",\"Actor\":{\"ID\":\"id\"}}\n";

/// The answer to an attach, with what follows.
fn attached(frames: &[&[u8]]) -> &'static [u8] {
    [UPGRADED.as_bytes(), &frames.concat()].concat().leak()
}

/// A frame of standard output that says so many bytes and has these.
fn frame(length: u8, bytes: &[u8]) -> Vec<u8> {
    [&[1, 0, 0, 0, 0, 0, 0, length], bytes].concat()
}

/// A fake with one container, whose output and events are these.
async fn one_container(
    attach: fn() -> Reply,
    events: fn() -> Reply,
    state: &'static str,
) -> (Fake, alpy_docker::Running) {
    let fake = Fake::polite(move |request| match request {
        "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
        "GET /events" => events(),
        "POST /containers/id/attach" => attach(),
        "POST /containers/id/start" => Status(204, ""),
        "GET /containers/id/json" => Json(state),
        _ => Close,
    });
    let engine = fake.connect().await.unwrap();
    let running = Container::new("i").command(["a"]).start(&engine).await.unwrap();
    (fake, running)
}

/// The end of a container's life as the engine reports it.
fn life() -> Reply {
    Json([CREATED, DIED, DESTROYED].concat().leak())
}

const ENDED: &str = r#"{"State":{"Running":false}}"#;
const RUNS: &str = r#"{"State":{"Running":true}}"#;

#[tokio::test]
async fn output_that_came_in_whole_is_complete() {
    let (_fake, running) = one_container(|| Raw(attached(&[&frame(2, b"a\n")])), life, ENDED).await;
    let output = running.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!((&*output.stdout_text(), &output.incomplete), ("a\n", &None));
    output.success().unwrap();
}

/// The container succeeds, and a part of what it printed is missing: no test may conclude that it did not print something.
#[tokio::test]
async fn output_of_a_stream_that_breaks_is_no_success() {
    let attaches: [fn() -> Reply; 3] = [
        // Within a frame's content, within its header, and in something that is no frame.
        || Raw(attached(&[&frame(2, b"a\n"), &frame(5, b"b")])),
        || Raw(attached(&[&frame(2, b"a\n"), &[1, 0, 0]])),
        || Raw(attached(&[&frame(2, b"a\n"), b"garbage"])),
    ];
    for attach in attaches {
        let (_fake, running) = one_container(attach, life, ENDED).await;
        let output = running.wait(Duration::from_secs(20)).await.unwrap();
        assert!(output.status.success());
        let error = output.success().unwrap_err();
        assert!(matches!(&error, Error::Failed(_)), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("its output is incomplete: the engine's stream ended within a frame"),
            "{text}"
        );
    }
}

/// The stream ends in order, and too early: the engine says that the container runs.
#[tokio::test]
async fn output_that_ends_before_the_container_is_incomplete() {
    let events = || Open(leak_json(&[CREATED]));
    let attach = || Raw(attached(&[&frame(2, b"a\n")]));
    let (fake, running) = one_container(attach, events, RUNS).await;
    let error = running
        .wait_output("ready", Duration::from_secs(20))
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::Lost { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("ended while the container ran"), "{text}");
    assert_eq!(fake.heard("GET /containers/id/json"), 1);
}

/// The engine reports the end, and leaves the stream open.
#[tokio::test]
async fn output_that_stays_silent_after_the_end_is_incomplete() {
    let attach = || Open(attached(&[&frame(2, b"a\n")]));
    let (_fake, running) = one_container(attach, life, ENDED).await;
    let output = running.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(&*output.stdout_text(), "a\n");
    let text = output.success().unwrap_err().to_string();
    assert!(text.contains("still open 10s after the end"), "{text}");
}

fn leak_json(lines: &[&str]) -> &'static [u8] {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
    [head, &lines.concat()].concat().leak().as_bytes()
}

/// An exec whose stream breaks, ends too early, or was never attached.
#[tokio::test]
async fn output_of_a_command_is_known_to_be_whole_or_not() {
    const CODE: &str = r#"{"Running":false,"ExitCode":0}"#;
    type Stream = fn() -> Reply;
    let cases: [(Stream, &str, &str); 4] = [
        (|| Raw(attached(&[&frame(2, b"a\n")])), CODE, ""),
        (
            || Raw(attached(&[&frame(5, b"a\n")])),
            CODE,
            "ended within a frame",
        ),
        (
            || Raw(attached(&[&frame(2, b"a\n")])),
            r#"{"Running":true,"ExitCode":0}"#,
            "ended while the command ran",
        ),
        (
            || Raw(attached(&[&frame(2, b"a\n")])),
            r#"{"Running":false,"ExitCode":null}"#,
            "does not know its exit code",
        ),
    ];
    for (stream, inspected, fault) in cases {
        let fake = Fake::polite(move |request| match request {
            "POST /containers/create" => Status(201, r#"{"Id":"id","Warnings":[]}"#),
            "GET /events" => Open(leak_json(&[CREATED])),
            "POST /containers/id/attach" => Open(UPGRADED.as_bytes()),
            "POST /containers/id/start" => Status(204, ""),
            "POST /containers/id/exec" => Status(201, r#"{"Id":"x"}"#),
            "POST /exec/x/start" => stream(),
            "GET /exec/x/json" => Json(inspected),
            _ => Close,
        });
        let engine = fake.connect().await.unwrap();
        let running = Container::new("i").start(&engine).await.unwrap();
        let output = running.exec(["a"], Duration::from_secs(20)).await;
        let result = output.and_then(alpy_docker::Output::success);
        match result {
            Ok(output) => assert_eq!((fault, &*output.stdout_text()), ("", "a\n")),
            Err(error) => {
                let text = error.to_string();
                assert!(!fault.is_empty() && text.contains(fault), "{fault:?}: {text}");
            }
        }
    }
}

/// The engine ends in the middle of an import, with an answer that has begun well.
#[tokio::test]
async fn an_answer_that_is_cut_off_is_no_success() {
    let replies: [fn() -> Reply; 3] = [
        || Raw(b"HTTP/1.0 200 OK\r\n\r\n"),
        || Raw(b"HTTP/1.0 200 OK\r\n\r\n{\"status\":\"sha2"),
        || Raw(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{\"status\":\"sha256:1\"}"),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let fake = Fake::polite(move |request| match request {
            "POST /images/create" => reply(),
            "GET /images/json" => Json("[]"),
            _ => Close,
        });
        let engine = fake.connect().await.unwrap();
        let import = engine.import_image("name:1", b"archive".to_vec(), &[]);
        let error = import.await.unwrap_err();
        assert!(matches!(&error, Error::Lost { .. }), "{number}: {error:?}");
    }
}

/// No HEALTHCHECK, a limit of open files, and on Podman no proxy of the service's environment.
#[tokio::test]
async fn a_container_does_not_depend_on_the_engines_defaults() {
    let fake = Fake::podman(|_| Close);
    let engine = fake.connect().await.unwrap();
    let container = Container::new("i").env("NO_PROXY", "mine").open_files(64);
    container.start(&engine).await.unwrap_err();
    for part in [
        r#""Healthcheck":{"Test":["NONE"]"#,
        r#""Ulimits":[{"Name":"nofile","Soft":64,"Hard":"#,
        r#""http_proxy=""#,
        r#""HTTPS_PROXY=""#,
        r#""NO_PROXY=mine""#,
    ] {
        assert_eq!(fake.heard(part), 1, "{part}");
    }
    assert_eq!(fake.heard(r#""NO_PROXY=""#), 0);
}

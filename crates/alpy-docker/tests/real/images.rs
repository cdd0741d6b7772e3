// SPDX-License-Identifier: GPL-3.0-or-later
//! Images, on a real engine.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use alpy_docker::{Archive, Container, Engine, Error, Tar};
use alpy_need::need;

use crate::support::{Scene, busybox_root, docker, scene};

/// Runs the test with a name for the image that it makes.
async fn with_image(test: impl AsyncFnOnce(&Scene, &str)) {
    scene(async |scene| {
        let image = scene.made_image();
        test(scene, &image).await;
        scene.engine.remove_image(&image).await.unwrap();
        assert!(!scene.engine.image_present(&image).await.unwrap());
    })
    .await;
}

async fn output_of(scene: &Scene, image: &str) -> String {
    let output = Container::new(image)
        .label("alpy.run", &scene.unique)
        .run(&scene.engine)
        .await
        .unwrap();
    output.success().unwrap().stdout_text().into_owned()
}

#[tokio::test]
async fn imports_from_a_file_only_what_is_absent() {
    need!(docker, busybox);
    with_image(async |scene, image| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&busybox_root()).unwrap();
        let mut made = 0;
        for _ in 0..2 {
            let make = async || {
                made += 1;
                let changes = [
                    "ENV PATH=/bin",
                    r#"ENTRYPOINT ["/bin/echo", "entry"]"#,
                    r#"CMD ["command"]"#,
                ];
                scene
                    .engine
                    .import_image(image, Tar::file(file.path()), &changes)
                    .await
            };
            scene.engine.ensure_image(image, make).await.unwrap();
        }
        assert_eq!(made, 1);
        assert_eq!(output_of(scene, image).await, "entry command\n");
        let run = async |container: Container| {
            let output = container
                .label("alpy.run", &scene.unique)
                .run(&scene.engine)
                .await
                .unwrap();
            output.success().unwrap().stdout_text().into_owned()
        };
        assert_eq!(run(Container::new(image).command(["mine"])).await, "entry mine\n");
        assert_eq!(
            run(Container::new(image).no_entrypoint().command(["echo", "bare"])).await,
            "bare\n"
        );
    })
    .await;
}

#[tokio::test]
async fn imports_of_one_name_at_once_leave_one_name() {
    need!(docker, busybox);
    with_image(async |scene, image| {
        let import = async || {
            scene
                .engine
                .import_image(image, busybox_root(), &[r#"CMD ["/bin/echo", "hello"]"#])
                .await
        };
        let results = tokio::join!(import(), import(), import());
        for result in [results.0, results.1, results.2] {
            result.unwrap();
        }
        assert_eq!(output_of(scene, image).await, "hello\n");
        remove_dangling(scene, image).await;
    })
    .await;
}

/// What the child imports and starts.
const CHILD_IMAGE: &str = "ALPY_DOCKER_CHILD_IMAGE";

/// Each import takes the name from the image that another process may be about to start.
#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "this executable again, waited for at the end"
)]
async fn an_image_that_another_process_is_about_to_start_is_not_removed() {
    const PROCESSES: usize = 16;
    need!(docker, busybox);
    with_image(async |scene, image| {
        let child = || {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command
                .args(["images::a_child", "--exact", "--ignored", "--nocapture"])
                .env(CHILD_IMAGE, image)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let children: Vec<_> = (0..PROCESSES).map(|_| child()).collect();
        let wait = move || {
            children
                .into_iter()
                .map(|child| child.wait_with_output().unwrap())
        };
        let outputs = tokio::task::spawn_blocking(|| wait().collect::<Vec<_>>()).await;
        for output in outputs.unwrap() {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        remove_dangling(scene, image).await;
    })
    .await;
}

#[tokio::test]
#[ignore = "the child that another test starts"]
async fn a_child() {
    const ROUNDS: usize = 4;
    let image = std::env::var(CHILD_IMAGE).expect("another test starts this one");
    // A request waits for those of fifteen other processes.
    let engine = Engine::connect()
        .await
        .unwrap()
        .request_limit(Duration::from_secs(300));
    for _ in 0..ROUNDS {
        let command = [r#"CMD ["/bin/true"]"#];
        engine
            .import_image(&image, busybox_root(), &command)
            .await
            .unwrap();
        let output = Container::new(&image).run(&engine).await.unwrap();
        output.success().unwrap();
    }
}

/// Removes the images that lost the name, as a later import would.
async fn remove_dangling(scene: &Scene, image: &str) {
    for id in dangling(image).lines() {
        scene.engine.remove_image(id).await.unwrap();
    }
    assert_eq!(dangling(image), "", "replaced images stay behind");
}

/// The ids of the images that lost the name, by the CLI's account.
fn dangling(image: &str) -> String {
    let label = format!("label=alpy.tag={image}");
    docker(&[
        "image",
        "ls",
        "-q",
        "--filter",
        "dangling=true",
        "--filter",
        &label,
    ])
}

#[tokio::test]
async fn builds_from_a_dockerfile() {
    need!(docker, busybox);
    with_image(async |scene, image| {
        let dockerfile = format!(
            "FROM {}\nCOPY greeting /\nCMD [\"cat\", \"/greeting\"]\n",
            scene.image
        );
        let context = |text: &str| {
            let archive = Archive::new().file("Dockerfile", 0o644, text.as_bytes()).unwrap();
            archive.file("greeting", 0o644, b"built\n").unwrap().finish()
        };
        scene
            .engine
            .build_image(image, context(&dockerfile))
            .await
            .unwrap();
        assert_eq!(output_of(scene, image).await, "built\n");
        let error = scene
            .engine
            .build_image(image, context("FROM scratch\nCOPY nothing /\n"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::ImageFailed { verb: "build", .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("nothing"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn loads_what_docker_saved() {
    need!(docker, busybox);
    with_image(async |scene, image| {
        // The layout of `docker save`: the layers, a description, and a manifest that names them.
        let config = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/echo","loaded"]},"rootfs":{"type":"layers","diff_ids":["sha256:DIGEST"]}}"#;
        let root = busybox_root();
        let config = config.replace("DIGEST", &sha256(&root));
        let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{image}"],"Layers":["layer.tar"]}}]"#);
        let saved = Archive::new()
            .file("manifest.json", 0o644, manifest.as_bytes())
            .and_then(|archive| archive.file("config.json", 0o644, config.as_bytes()))
            .and_then(|archive| archive.file("layer.tar", 0o644, &root))
            .unwrap();
        scene.engine.load_images(saved.finish()).await.unwrap();
        assert_eq!(output_of(scene, image).await, "loaded\n");
    })
    .await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "sha256sum of coreutils, waited for at once"
)]
fn sha256(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = std::process::Command::new("sha256sum")
        .arg(file.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused_at_once() {
    need!(docker, busybox);
    scene(async |scene| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("/etc", path("link")).unwrap();
        for (file, kind) in [
            ("/etc".into(), "a directory"),
            (path("link"), "a directory"),
            (path("pipe"), "a pipe"),
            (path("socket"), "a socket"),
            ("/dev/zero".into(), "a device"),
        ] {
            let image = scene.made_image();
            let results = [
                scene.engine.import_image(&image, Tar::file(&file), &[]).await,
                scene.engine.build_image(&image, Tar::file(&file)).await,
                scene.engine.load_images(Tar::file(&file)).await,
            ];
            let file = file.display().to_string();
            let names = [("import", &image), ("build", &image), ("load", &file)];
            for (result, (verb, image)) in results.into_iter().zip(names) {
                assert_eq!(
                    result.unwrap_err().to_string(),
                    format!("cannot {verb} image {image:?}: {file} is {kind}; pass a tar archive")
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    need!(docker, busybox);
    scene(async |scene| {
        let image = scene.made_image();
        let error = scene
            .engine
            .import_image(&image, b"garbage".repeat(1000), &[])
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::ImageFailed { verb: "import", .. }),
            "{error:?}"
        );
        let error = scene
            .engine
            .load_images(Tar::file("/no/such/archive.tar"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::File { .. }) && error.to_string().contains("/no/such/archive.tar"),
            "{error:?}"
        );
        let error = scene
            .engine
            .import_image(&image, Vec::new(), &["NONSENSE"])
            .await
            .unwrap_err();
        assert!(error.to_string().to_lowercase().contains("nonsense"), "{error}");
        for name in ["", "a b", "a?b", "../etc", "a//b", "a#b"] {
            let error = scene.engine.image_present(name).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{name:?}: {error:?}");
        }
    })
    .await;
}

/// The name is reserved, so no registry has it: see RFC 2606.
#[tokio::test]
async fn a_registry_out_of_reach_is_one_line() {
    need!(docker, busybox);
    scene(async |scene| {
        let error = scene
            .engine
            .pull_image("registry.invalid/alpy:1")
            .await
            .unwrap_err();
        assert!(matches!(error, Error::PullFailed { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("registry.invalid/alpy:1") && !text.contains('\n'),
            "{text}"
        );
    })
    .await;
}

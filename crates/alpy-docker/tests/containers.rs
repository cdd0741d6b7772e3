// SPDX-License-Identifier: GPL-3.0-or-later
//! Containers on a real engine.

mod support;

use std::time::Duration;

use alpy_docker::{Container, Error};
use alpy_need::need;

use support::{SOON, scene};

#[tokio::test]
async fn runs_to_the_end_and_collects_output_and_status() {
    need!(docker, busybox);
    scene(async |scene| {
        let command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
        let output = scene.container(command).run(&scene.engine).await.unwrap();
        assert_eq!(output.stdout_text(), "out\n");
        assert_eq!(output.stderr_text(), "err\n");
        assert_eq!(output.status.code(), 3);
        let error = output.success().unwrap_err().to_string();
        assert!(
            error.contains("exit code 3") && error.contains("err") && error.contains(&scene.image),
            "{error}"
        );
        // It was removed before `run` returned.
        assert_eq!(scene.containers().await, Vec::<String>::new());
    })
    .await;
}

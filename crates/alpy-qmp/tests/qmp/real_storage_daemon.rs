// SPDX-License-Identifier: GPL-3.0-or-later
//! A real storage daemon: QMP without a machine, with jobs.

use std::future::IntoFuture;

use alpy_need::need;
use alpy_qmp::commands::{QueryJobs, QueryVersion};
use alpy_qmp::{Error, ServerError};
use serde_json::{Value, json};

use crate::fake::LONG;
use crate::process::Process;

fn create(id: &str, node: &str, size: u64) -> Value {
    json!({"job-id": id, "options": {"driver": "qcow2", "file": node, "size": size}})
}

#[tokio::test]
async fn a_job_runs_to_its_end_and_is_forgotten() {
    need!(storage_daemon);
    let (client, process) = Process::storage_daemon_on_pair().await;
    assert!(client.has_out_of_band());
    assert!(!client.has_command("query-status").await.expect("commands"));
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image");
    std::fs::File::create(&image).expect("a file");
    let node = json!({"driver": "file", "node-name": "file0", "filename": image});
    client.execute_raw("blockdev-add", node).await.expect("a node");
    // Twice under one id: it is free again after the first.
    for _ in 0..2 {
        let job = client.execute_raw("blockdev-create", create("job0", "file0", 1 << 20));
        client.run_job("job0", job, LONG).await.expect("an image");
    }
    assert_eq!(std::fs::read(&image).expect("an image")[..4], *b"QFI\xfb");
    assert!(client.execute(QueryJobs).await.expect("jobs").is_empty());
    client.quit(LONG).await.expect("the end");
    assert!(process.status().await.success());
}

#[tokio::test]
async fn a_job_that_fails_says_why() {
    need!(storage_daemon);
    let (client, _process) = Process::storage_daemon_on_pair().await;
    let node = json!({"driver": "null-co", "node-name": "null0", "size": 0, "read-only": true});
    client.execute_raw("blockdev-add", node).await.expect("a node");
    let job = client.execute_raw("blockdev-create", create("job0", "null0", 1 << 20));
    // The command itself succeeds.
    let error = client.run_job("job0", job, LONG).await.expect_err("no room");
    let Error::Job { id, message } = error else {
        panic!("{error:?}")
    };
    assert_eq!(id, "job0");
    assert_eq!(message, "Block node is read-only");
    assert!(client.execute(QueryJobs).await.expect("jobs").is_empty());

    let job = client.execute_raw("blockdev-create", create("job0", "no-such-node", 1 << 20));
    let error = client.run_job("job0", job, LONG).await.expect_err("no such node");
    let known = matches!(&error, Error::Job { message, .. } | Error::Server(ServerError { desc: message, .. }) if message.contains("no-such-node"));
    assert!(known, "{error:?}");
}

#[tokio::test]
async fn many_tasks_use_one_connection() {
    need!(storage_daemon);
    let (client, _process) = Process::storage_daemon_on_pair().await;
    let expected = client.greeting().version.clone();
    let tasks: Vec<_> = (0..200)
        .map(|_| tokio::spawn(client.execute(QueryVersion).into_future()))
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("no panic").expect("a version"), expected);
    }
}

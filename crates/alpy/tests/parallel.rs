// SPDX-License-Identifier: GPL-3.0-or-later
//! Many testbeds at once, all with the same name: in one process, and in as many processes.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alpy::qemu::Machine;
use alpy::{Failure, Link, TestResult, Testbed};
use alpy_need::need;
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child as Process, ChildStderr, Command};
use tokio::sync::Barrier;
use tokio::time::timeout;

/// How many are there at once.
const MANY: usize = 12;

/// A run that says its number, on a name that others share, and then does something in the midst of it.
async fn run(test: &str, number: usize, meanwhile: impl AsyncFnOnce()) -> Result<PathBuf, Failure> {
    Testbed::builder(test)
        .machine(Machine::new().memory_mib(32))
        .link(Link::new().address("192.0.2.1/24"))
        .link(Link::new().address("192.0.2.2/24"))
        .run(async |bed| -> TestResult<_> {
            tracing::info!("this is number {number}");
            bed.start_cpu().await?;
            meanwhile().await;
            // Looked at before the end, when the directory may become that of a later run.
            assert_eq!(numbers(bed.evidence().dir()), [number]);
            Ok(bed.evidence().dir().to_owned())
        })
        .await
}

/// The numbers in a log.
fn numbers(dir: &Path) -> Vec<usize> {
    let log = fs::read_to_string(dir.join("debug.log")).unwrap();
    let numbers = log.lines().filter_map(|line| line.split_once("this is number "));
    numbers.map(|(_, number)| number.parse().unwrap()).collect()
}

#[tokio::test]
async fn many_testbeds_in_one_process_keep_apart() {
    need!(docker, qemu);
    let all_there = Barrier::new(MANY);
    let runs = (0..MANY).map(|number| {
        run("many-testbeds", number, async || {
            all_there.wait().await;
        })
    });
    let dirs: Result<HashSet<_>, Failure> = join_all(runs).await.into_iter().collect();
    assert_eq!(dirs.unwrap().len(), MANY);
}

#[tokio::test]
async fn many_processes_keep_apart() {
    need!(docker, qemu);
    let children = join_all((0..MANY).map(Child::start)).await;
    let dirs: HashSet<_> = children.iter().map(|child| child.dir.clone()).collect();
    assert_eq!(dirs.len(), MANY);
    join_all(children.into_iter().map(Child::end)).await;
}

#[tokio::test]
#[ignore = "the child that another test starts"]
async fn a_child() {
    let number = std::env::var("ALPY_TEST_CHILD").expect("another test starts this one");
    let dir = run("many-processes", number.parse().unwrap(), async || {
        eprintln!("HERE");
        tokio::io::stdin().read_to_end(&mut Vec::new()).await.unwrap();
    });
    dir.await.unwrap();
}

/// A run in a process of its own, which goes on until it is ended.
struct Child {
    process: Process,
    log: Lines<BufReader<ChildStderr>>,
    dir: String,
}

impl Child {
    async fn start(number: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["a_child", "--exact", "--ignored", "--nocapture"])
            .env("ALPY_TEST_CHILD", number.to_string());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let (mut seen, mut dir) = (String::new(), None);
        let here = async {
            while let Some(line) = log.next_line().await.unwrap() {
                if line == "HERE" {
                    return true;
                }
                if let Some((_, path)) = line.split_once("Evidence: ") {
                    dir = Some(path.to_owned());
                }
                seen += &(line + "\n");
            }
            false
        };
        assert!(
            timeout(Duration::from_secs(120), here).await.unwrap_or(false),
            "number {number}: {seen}"
        );
        Self {
            process,
            log,
            dir: dir.unwrap(),
        }
    }

    async fn end(mut self) {
        drop(self.process.stdin.take());
        let mut seen = String::new();
        let ended = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                seen += &(line + "\n");
            }
            self.process.wait().await.unwrap()
        };
        let status = timeout(Duration::from_secs(120), ended).await.unwrap();
        assert!(status.success(), "{}: {seen}", self.dir);
    }
}

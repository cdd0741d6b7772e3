// SPDX-License-Identifier: GPL-3.0-or-later
//! How a restored guest gets the time and its random numbers.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::time::Duration;

use alpy::console::Console;
use alpy::qemu::RootShell;
use alpy::{Testbed, TestbedBuilder};
use alpy_need::need;
use anyhow::{Context, Result, ensure};

/// The time limit for a line that is typed by these tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A time that no test can confuse with the present: 2001-09-09 01:46:40 UTC.
const LONG_AGO: Duration = Duration::from_secs(1_000_000_000);

/// A rabbit that is restored, without any link: no container is needed.
fn rabbit(test: &str) -> TestbedBuilder {
    Testbed::builder(test).machine(rabbit::machine().unwrap())
}

/// The shell at the end of the rabbit's recipe.
fn shell() -> RootShell {
    let machine = rabbit::machine().unwrap();
    machine
        .recipe()
        .and_then(|recipe| recipe.shell())
        .cloned()
        .unwrap()
}

/// The 32 bytes as `printf` takes them, and the program that reads them.
fn parts(line: &str) -> (Vec<String>, String) {
    let (bytes, rest) = line
        .strip_prefix("printf '\\")
        .and_then(|rest| rest.split_once("' | "))
        .unwrap();
    let (program, _) = rest.split_once(" &&").unwrap();
    (
        bytes.split('\\').map(|byte| format!("\\{byte}")).collect(),
        program.to_owned(),
    )
}

/// Types `writer | PROGRAM`, and returns the exit status of the program and the guest's clock in whole seconds.
async fn wake_by(console: &Console, writer: &str, program: &str) -> Result<(u8, u64)> {
    console
        .send_line(&format!(
            "{{ {writer}; }} | {program}; echo st''atus $? $(date +%s)"
        ))
        .await?;
    let seen = console.expect_regex("status ([0-9]+) ([0-9]+)\r", LIMIT).await?;
    let number = |group| -> Result<u64> {
        Ok(seen
            .group_text(group)
            .context("the pattern has two groups")?
            .parse()?)
    };
    Ok((u8::try_from(number(1)?)?, number(2)?))
}

#[tokio::test]
async fn the_program_takes_its_input_in_any_number_of_pieces() {
    need!(qemu);
    let run = rabbit("waking-pieces").run(async |bed| {
        bed.start_cpu().await?;
        ensure!(bed.is_restored());
        let (bytes, program) = parts(&shell().wake_line(LONG_AGO, *b"\n2\n4\n6\n8\n0\n2\n4\n6"));
        ensure!(bytes.len() == 32);
        let text = |bytes: &[String]| format!("printf '{}'", bytes.concat());
        let (first, rest) = bytes.split_at(13);
        let each: Vec<_> = bytes
            .iter()
            .map(|byte| text(std::slice::from_ref(byte)))
            .collect();
        for writer in [
            text(&bytes),
            // The program has read the first piece by the time that the second one is written.
            format!("{}; sleep 1; {}", text(first), text(rest)),
            each.join(";"),
        ] {
            let (status, clock) = wake_by(bed.console(), &writer, &program).await?;
            ensure!(status == 0, "status {status} after {writer}");
            let since = clock.checked_sub(LONG_AGO.as_secs());
            ensure!(
                since.is_some_and(|since| since < LIMIT.as_secs()),
                "the clock is at {clock}"
            );
        }
        // One byte too few is not taken for a time, and the status says that the input was the fault.
        let short = text(&bytes[..31]);
        let (status, _) = wake_by(bed.console(), &short, &program).await?;
        ensure!(status == 1, "status {status} after {short}");
        Ok::<_, anyhow::Error>(())
    });
    run.await.unwrap();
}

/// The number of restores of the soak. `ALPY_SOAK_RESTORES=1000` makes it a long one.
fn restores() -> usize {
    match std::env::var("ALPY_SOAK_RESTORES") {
        Ok(count) => count.parse().expect("ALPY_SOAK_RESTORES is a number"),
        Err(_) => 20,
    }
}

#[tokio::test]
async fn each_of_many_restored_guests_wakes() {
    need!(qemu);
    let count = restores();
    assert!(count > 0, "a soak without a restore proves nothing");
    for number in 1..=count {
        let run = rabbit("waking-soak").run(async |bed| {
            bed.start_cpu().await?;
            ensure!(bed.is_restored());
            Ok::<_, anyhow::Error>(())
        });
        run.await
            .with_context(|| format!("restore {number} of {count}"))
            .unwrap();
    }
    println!("{count} restores, 0 failures");
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy console`.

use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use alpy::control::Control;
use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::{Instant, interval};

use crate::args::Console;
use crate::failure::{absent, interrupted};
use crate::files;
use crate::find::Runs;
use crate::stop::Stop;

/// What leaves the console: Ctrl-], as in telnet and in `virsh console`.
const LEAVE: u8 = 0x1d;

/// Between two looks whether the machine has said more.
const LOOK: Duration = Duration::from_millis(20);

/// How much of `console.log` is shown, in bytes.
const BEFORE: u64 = 4096;

pub async fn run(runs: &Runs, args: &Console) -> Result<ExitCode> {
    let run = runs.get_under_way(&args.test)?;
    let Some(folder) = run.machines.get(args.machine) else {
        return Err(absent(format!(
            "{} has no machine {}: it has {}, counted from 0",
            run.name(),
            args.machine,
            run.machines.len()
        )));
    };
    let mut machine = Control::of(&run).console(args.machine).await?;
    // The terminal is to be as it was, whatever ends this.
    let mut stop = Stop::begin()?;
    let terminal = Raw::begin()?;
    if terminal.is_some() {
        eprint!("Console of {}, Ctrl-] leaves it\r\n", run.name());
    }
    let mut said = Said::open(&folder.join("console.raw")).await?;
    let line_end = if terminal.is_some() { "\r\n" } else { "\n" };
    print(history(folder)?.replace('\n', line_end).as_bytes()).await?;
    let mut stdin = tokio::io::stdin();
    let (mut typed, mut more) = ([0; 1024], true);
    let silence = Duration::from_secs_f64(args.wait);
    let mut last = Instant::now();
    let mut looks = interval(LOOK);
    let mut ended = std::pin::pin!(run.ended());
    loop {
        tokio::select! {
            count = stdin.read(&mut typed), if more => {
                let bytes = &typed[..count?];
                let leave = bytes.iter().position(|byte| *byte == LEAVE && terminal.is_some());
                machine.write_all(&bytes[..leave.unwrap_or(bytes.len())]).await.context("the testbed is gone")?;
                if leave.is_some() {
                    eprint!("\r\n");
                    return Ok(ExitCode::SUCCESS);
                }
                // At the end of a script, what the machine answers is to be seen yet.
                more = !bytes.is_empty();
                last = Instant::now();
            }
            _ = looks.tick() => {
                if said.print().await? {
                    last = Instant::now();
                }
                if !more && last.elapsed() >= silence {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            _ = &mut ended => {
                said.print().await?;
                eprint!("\r\n{} has ended\r\n", run.name());
                return Ok(ExitCode::SUCCESS);
            }
            signal = stop.next() => return Err(interrupted(signal)),
        }
    }
}

/// What the machine says, as its transcript grows.
struct Said {
    file: File,
}

impl Said {
    /// Opens the file at its end.
    async fn open(path: &Path) -> Result<Self> {
        let mut file = File::from_std(files::open(path)?);
        file.seek(SeekFrom::End(0)).await?;
        Ok(Self { file })
    }

    /// Prints what is new, and tells whether there was anything.
    async fn print(&mut self) -> Result<bool> {
        let mut bytes = [0; 16 << 10];
        let mut any = false;
        loop {
            match self.file.read(&mut bytes).await? {
                0 => return Ok(any),
                count => print(&bytes[..count]).await?,
            }
            any = true;
        }
    }
}

/// The last lines of `console.log`, without sequences that would control the terminal. The last line has no newline if the machine waits for input
/// in it.
fn history(folder: &Path) -> Result<String> {
    let mut file = files::open(&folder.join("console.log"))?;
    let from = file.metadata()?.len().saturating_sub(BEFORE);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(BEFORE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = match text.split_once('\n') {
        Some((_, whole)) if from > 0 => whole,
        _ => &text,
    };
    Ok(without_sequences(whole))
}

/// The text of a log without the sequences that set colours or move the cursor.
fn without_sequences(log: &str) -> String {
    let mut text = String::with_capacity(log.len());
    let mut rest = log;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        text.push_str(plain);
        rest = if let Some(after) = escape.strip_prefix("\\x1b[") {
            // ECMA-48: parameters, and a final byte.
            let end = after.find(|character| matches!(character, '@'..='~' | '\n'));
            end.map_or("", |end| {
                after[end..]
                    .strip_prefix(|last| last != '\n')
                    .unwrap_or(&after[end..])
            })
        } else if let Some(after) = escape.strip_prefix("\\x1b") {
            after.strip_prefix(|next| next != '\n').unwrap_or(after)
        } else if let Some(after) = escape.strip_prefix("\\r") {
            after
        } else if let Some(after) = escape.strip_prefix("\\\\") {
            text.push_str("\\\\");
            after
        } else {
            text.push('\\');
            &escape[1..]
        };
    }
    text + rest
}

async fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = tokio::io::stdout();
    stdout.write_all(bytes).await?;
    Ok(stdout.flush().await?)
}

/// The terminal passes each key on as it is, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    /// Nothing where the keyboard is none.
    fn begin() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Where it fails the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_has_text_alone() {
        for (log, text) in [
            ("< \\x1b[1;31mred\\x1b[0m\n", "< red\n"),
            ("< rabbit# \\x1b[6n", "< rabbit# "),
            ("< \\x1b[3\n< \\x1b\n< \\x1b[", "< \n< \n< "),
            ("< \\rSent\\x1bcC:\\\\x1b[ \\x07\\", "< SentC:\\\\x1b[ \\x07\\"),
            ("$ id\n< root\n[exit code 0]\n", "$ id\n< root\n[exit code 0]\n"),
        ] {
            assert_eq!(without_sequences(log), text, "{log}");
        }
    }

    #[test]
    fn the_history_of_a_long_log_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let line = |number: usize| format!("< line {number:04}\n");
        let log: String = (0..1000).map(line).collect();
        std::fs::write(dir.path().join("console.log"), log + "< login: ").unwrap();
        let history = history(dir.path()).unwrap();
        assert!(history.len() > 4000, "{}", history.len());
        assert!(history.starts_with("< line 0"), "{history}");
        assert!(history.ends_with("< line 0999\n< login: "), "{history}");
    }
}

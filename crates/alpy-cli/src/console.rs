// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy console`.

use std::io::{IsTerminal, SeekFrom};
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

/// How much of what was said before is shown, in bytes.
const BEFORE: u64 = 2048;

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
    /// From some lines before the end on.
    async fn open(path: &Path) -> Result<Self> {
        let mut file = File::from_std(files::open(path)?);
        let end = file.seek(SeekFrom::End(0)).await?;
        let from = end.saturating_sub(BEFORE);
        file.seek(SeekFrom::Start(from)).await?;
        let mut before = vec![0; usize::try_from(end - from)?];
        file.read_exact(&mut before).await?;
        let line = before.iter().position(|byte| *byte == b'\n').filter(|_| from > 0);
        print(&before[line.map_or(0, |at| at + 1)..]).await?;
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

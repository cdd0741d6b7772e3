// SPDX-License-Identifier: GPL-3.0-or-later
//! Commands and files for the shell behind a console.

pub(crate) mod typing;

use std::borrow::Cow;
use std::time::Duration;

use crate::escape::last_lines;
use crate::observer::observed;
use crate::{Console, Error, Match, ReadUntil};

/// How many lines of a failed command's output its error shows.
pub(crate) const OUTPUT_LINES: usize = 30;

/// The shell behind a console, after login: runs commands, takes files.
///
/// Any POSIX shell does, BusyBox's with nothing but `printf` too. On [`attach`](ShellBuilder::attach) a function
/// `alpy` is typed in. It runs a command between two lines that nobody else prints, so neither the prompt nor the echo nor the
/// width of the terminal matters:
///
/// ```text
/// > alpy 5d0c61e2 'ip -br link' </dev/null
/// < # alpy 5d0c61e2 'ip -br link' </dev/null
/// < <5d0c61e2|
/// < lo               UNKNOWN        00:00:00:00:00:00 <LOOPBACK,UP,LOWER_UP>
/// <
/// < |5d0c61e2>0.
/// ```
///
/// Text goes the other way in short lines of ASCII that look like the text, with octal escapes for the rest; each 2 KiB are
/// acknowledged, so no buffer of a terminal overflows.
///
/// No method is cancel safe. After one was dropped or ran into its deadline, the next one first interrupts with Ctrl-C what
/// may still run and waits for the prompt. The function lives in one shell process: whoever starts another one on the console
/// (`su`, a new login) attaches again.
#[derive(Debug)]
pub struct RemoteShell {
    console: Console,
    prompt: ReadUntil,
    deadline: Duration,
    /// A call did not come to its end, so something may still run or read there.
    unfinished: bool,
}

/// Settings of a remote shell; made by [`RemoteShell::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ShellBuilder {
    console: Console,
    prompt: ReadUntil,
    deadline: Duration,
    quiet_kernel: bool,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Its exit code; 128 + n if signal n ended it.
    pub code: i32,
    /// What it wrote to stdout and stderr, exactly: the `\r` that the terminal put before each `\n` is taken out.
    pub bytes: Vec<u8>,
}

impl Output {
    /// The output as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

impl RemoteShell {
    /// A shell that prints `prompt` when it is ready for a command.
    pub fn builder(console: Console, prompt: impl Into<ReadUntil>) -> ShellBuilder {
        let deadline = Duration::from_secs(30);
        ShellBuilder {
            console,
            prompt: prompt.into(),
            deadline,
            quiet_kernel: false,
        }
    }

    /// Runs a command and returns its output; a command that fails is an error.
    ///
    /// It runs in a subshell with `/dev/null` as input: `cd` and variables do not outlive it. Several lines, quotes and any
    /// bytes are fine.
    ///
    /// # Errors
    /// [`Error::Command`] with code and output if the code is not 0, [`Error::Timeout`] after the deadline of the shell,
    /// [`Error::Garbled`] if something else printed into the frame of the output or the output was too long for the window of
    /// the console, and what [`Console::send`] says.
    pub async fn run(&mut self, command: impl AsRef<str>) -> Result<Output, Error> {
        self.command(command.as_ref()).run().await
    }

    /// A command to run with other settings than [`run`](Self::run)'s.
    pub fn command(&mut self, command: impl Into<String>) -> Command<'_> {
        let deadline = self.deadline;
        Command {
            shell: self,
            command: command.into(),
            deadline,
            ignore_status: false,
        }
    }

    /// Writes a file, which may hold any bytes. The far end counts what came, and checks that it could be written.
    ///
    /// Each 2 KiB may take as long as the deadline of the shell.
    ///
    /// # Errors
    /// [`Error::Command`] if the file cannot be opened there, if something was lost on the way, or if it could not be written, as on
    /// a full disk; and as [`run`](Self::run).
    pub async fn upload(&mut self, path: &str, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let content = content.as_ref();
        let wrapper = format!("alpy_get >{}", typing::quote(&local(path)));
        let name = format!("# upload of {} bytes to {}", content.len(), local(path));
        let console = self.console.clone();
        let upload = async { checked(&name, self.feed(&wrapper, &name, content, self.deadline).await?) };
        observed(&console, &name, true, upload).await.map(drop)
    }

    /// Makes a file executable and runs it, as [`run`](Self::run) does.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn execute(&mut self, path: &str) -> Result<Output, Error> {
        let quoted = typing::quote(&local(path));
        self.run(format!("chmod +x {quoted} && {quoted}")).await
    }

    /// Uploads a script under a name and runs it: [`upload`](Self::upload), then [`execute`](Self::execute). A name without a
    /// slash is one in the directory where the shell is.
    ///
    /// # Errors
    /// As those two.
    pub async fn run_script(&mut self, name: &str, text: &str) -> Result<Output, Error> {
        self.upload(name, text).await?;
        self.execute(name).await
    }

    /// The console, to speak with it directly.
    pub fn console(&self) -> &Console {
        &self.console
    }

    async fn run_within(&mut self, command: &str, deadline: Duration) -> Result<Output, Error> {
        let Some(typed) = typing::typed(command) else {
            let wrapper = "alpy_s=$(alpy_get)&&eval \"$alpy_s\" </dev/null";
            return self.feed(wrapper, command, command.as_bytes(), deadline).await;
        };
        self.settle(deadline).await?;
        self.unfinished = true;
        let id = typing::id();
        self.console.shared().transcript().begin_command(&id, 1, command);
        let line = format!("alpy {id} {typed} </dev/null");
        self.console.send_line_aside(&line).await?;
        self.outcome(&id, command, deadline).await
    }

    /// Runs `wrapper`, which calls `alpy_get`, and types `content` for that.
    async fn feed(
        &mut self,
        wrapper: &str,
        name: &str,
        content: &[u8],
        deadline: Duration,
    ) -> Result<Output, Error> {
        self.settle(deadline).await?;
        self.unfinished = true;
        let id = typing::id();
        self.console.shared().transcript().begin_command(&id, 2, name);
        let line = format!("alpy {id} {}", typing::quote(wrapper));
        self.console.send_line_aside(&line).await?;
        let ready = format!("<{id}+");
        let ended = format!("\n|{id}>");
        let mut came = Vec::new();
        for block in typing::blocks(content) {
            // The first one says that the far end reads, so that no line of the content becomes a command.
            let mut found = self.expect(&[&ready, &ended], name, deadline).await?;
            came.append(&mut found.before);
            if found.index == 1 {
                found.before = came;
                return self.outcome_of(&id, name, found, deadline).await;
            }
            self.console.send_aside(&block).await?;
        }
        self.outcome(&id, name, deadline).await
    }

    /// Waits until the command is over.
    async fn outcome(&mut self, id: &str, command: &str, deadline: Duration) -> Result<Output, Error> {
        let found = self.expect(&[&format!("\n|{id}>")], command, deadline).await?;
        self.outcome_of(id, command, found, deadline).await
    }

    async fn outcome_of(
        &mut self,
        id: &str,
        command: &str,
        end: Match,
        deadline: Duration,
    ) -> Result<Output, Error> {
        let code = self.expect(&["."], command, deadline).await?;
        self.unfinished = false;
        let garbled = |problem: String| Error::Garbled {
            command: command.to_owned(),
            problem,
            seen: self.console.seen(),
        };
        let code = code.before_text();
        let code = code
            .parse()
            .map_err(|_| garbled(format!("{code:?} is no exit code")))?;
        let bytes = typing::framed(&end.before, id).ok_or_else(|| match end.dropped {
            0 => garbled("the line where it begins is missing".to_owned()),
            bytes => garbled(format!(
                "it is too long, {bytes} bytes fell out of the console's window"
            )),
        })?;
        Ok(Output { code, bytes })
    }

    async fn expect(&self, needles: &[&str], command: &str, deadline: Duration) -> Result<Match, Error> {
        let found = self.console.expect_any(needles.iter().copied(), deadline).await;
        found.map_err(|error| error.expecting(format!("the end of `{command}`")))
    }

    /// Makes sure that the shell listens.
    pub(crate) async fn settle(&mut self, deadline: Duration) -> Result<(), Error> {
        if self.unfinished {
            self.console.try_read();
            self.console.send_control('c').await?;
            self.console.read_until(&self.prompt, deadline).await?;
            self.unfinished = false;
        }
        Ok(())
    }
}

impl ShellBuilder {
    /// How long a command may take unless it says otherwise, 30 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Keeps the messages of a Linux kernel out of the output of commands: while one runs, the console's log level is 1. They
    /// stay in the kernel's log, and a panic is shown nevertheless. Needs root there.
    pub fn quiet_kernel(mut self) -> Self {
        self.quiet_kernel = true;
        self
    }

    /// Waits for the prompt, types in what the shell needs, and tries it with an empty command.
    ///
    /// If the prompt was read already, as at the end of a login, send an empty line before. Not cancel safe, but a second
    /// attach after an empty line is fine.
    ///
    /// # Errors
    /// [`Error::Timeout`] if no prompt comes, and as [`RemoteShell::run`] if what follows is no POSIX shell.
    pub async fn attach(self) -> Result<RemoteShell, Error> {
        let deadline = self.deadline;
        self.console.read_until(&self.prompt, deadline).await?;
        let console = self.console.clone();
        console.aside(self.attach_here(deadline)).await
    }

    /// The same where the prompt was read already.
    pub(crate) async fn attach_here(self, trial: Duration) -> Result<RemoteShell, Error> {
        let Self {
            console,
            prompt,
            deadline,
            quiet_kernel,
        } = self;
        let id = typing::id();
        {
            let mut transcript = console.shared().transcript();
            for mark in [typing::READY, &format!("<{id}|"), &format!("|{id}>0.")] {
                transcript.hide(mark);
            }
        }
        console.send_line_aside(typing::READ_FUNCTIONS).await?;
        console.expect(typing::READY, trial).await?;
        console
            .send_aside(typing::functions(quiet_kernel, &id).as_bytes())
            .await?;
        let mut shell = RemoteShell {
            console,
            prompt,
            deadline,
            unfinished: true,
        };
        let outcome = shell.outcome(&id, typing::TRIAL, trial).await?;
        checked(typing::TRIAL, outcome)?;
        Ok(shell)
    }
}

/// A command of a remote shell before it runs; made by [`RemoteShell::command`].
#[derive(Debug)]
#[must_use]
pub struct Command<'a> {
    shell: &'a mut RemoteShell,
    command: String,
    deadline: Duration,
    ignore_status: bool,
}

impl Command<'_> {
    /// How long it may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Takes an exit code that is not 0 for an answer and not for an error.
    pub fn ignore_status(mut self) -> Self {
        self.ignore_status = true;
        self
    }

    /// Runs it; see [`RemoteShell::run`]. Not cancel safe.
    ///
    /// # Errors
    /// As [`RemoteShell::run`].
    pub async fn run(self) -> Result<Output, Error> {
        let console = self.shell.console.clone();
        let run = async {
            let output = self.shell.run_within(&self.command, self.deadline).await?;
            match self.ignore_status {
                true => Ok(output),
                false => checked(&self.command, output),
            }
        };
        observed(&console, &self.command, true, run).await
    }
}

pub(crate) fn checked(command: &str, output: Output) -> Result<Output, Error> {
    match output.code {
        0 => Ok(output),
        code => Err(Error::Command {
            command: command.to_owned(),
            code,
            output: last_lines(&output.bytes, OUTPUT_LINES),
        }),
    }
}

/// A path that neither an option nor a program of PATH can be mistaken for.
fn local(path: &str) -> String {
    if path.contains('/') {
        path.to_owned()
    } else {
        format!("./{path}")
    }
}

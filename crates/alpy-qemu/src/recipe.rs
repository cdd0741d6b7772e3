// SPDX-License-Identifier: GPL-3.0-or-later
//! The way of a machine from its start to where tests begin.

mod other;

use std::any::Any;
use std::hash::Hash;
use std::time::Duration;

pub use other::OtherStep;

/// What to wait for on the serial console of a machine that boots, and what to answer: data, so that a state that is saved at the end
/// of it can be told from that of another recipe.
///
/// ```
/// use std::time::Duration;
/// use alpy_qemu::{Machine, Recipe};
///
/// let logged_in = Recipe::new("logged-in")
///     .within(Duration::from_secs(60))
///     .fails_on("Kernel panic")
///     .expect("login: ")
///     .line("root")
///     .root_shell("# ");
/// let machine = Machine::new().kernel("vmlinuz").saved_state(logged_in);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Recipe {
    name: String,
    steps: Vec<RecipeStep>,
    after_restore: Vec<RecipeStep>,
    failures: Vec<String>,
    limit: Duration,
    shell: Option<RootShell>,
}

/// A step of a [`Recipe`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecipeStep {
    /// Wait for this text.
    Expect(String),
    /// Send this line.
    Line(String),
    /// Do what another crate knows how to do.
    Other(OtherStep),
}

impl Recipe {
    /// A recipe without a step. Each text is waited for 60 s, unless [`within`](Self::within) says otherwise.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            steps: Vec::new(),
            after_restore: Vec::new(),
            failures: Vec::new(),
            limit: Duration::from_secs(60),
            shell: None,
        }
    }

    /// How long each text may take to come.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// A text that says that the guest has given up, so that nobody waits for it any longer.
    pub fn fails_on(mut self, text: impl Into<String>) -> Self {
        self.failures.push(text.into());
        self
    }

    /// Waits for a text on the console.
    pub fn expect(mut self, text: impl Into<String>) -> Self {
        self.steps.push(RecipeStep::Expect(text.into()));
        self
    }

    /// Sends a line.
    pub fn line(mut self, text: impl Into<String>) -> Self {
        self.steps.push(RecipeStep::Line(text.into()));
        self
    }

    /// Does what another crate knows how to do, and this one does not, such as the login of a guest. The value says what; whoever follows
    /// the recipe has to know its type. States of recipes with other values are other ones, as the hash of the value tells.
    pub fn other(mut self, name: impl Into<String>, value: impl Hash + Any + Send + Sync) -> Self {
        let step = OtherStep::new(name.into(), value);
        self.steps.push(RecipeStep::Other(step));
        self
    }

    /// Sends a line each time that the state was restored, in place of what [`root_shell`](Self::root_shell) does. `{now}` in it is the
    /// time in seconds since 1970, rounded, `{random}` 32 hexadecimal digits.
    ///
    /// A guest that is restored has the clock of the moment when it was saved, and its random numbers are those of all others that are
    /// restored from there.
    pub fn line_after_restore(mut self, text: impl Into<String>) -> Self {
        self.after_restore.push(RecipeStep::Line(text.into()));
        self
    }

    /// Waits for a text, after [`line_after_restore`](Self::line_after_restore).
    pub fn expect_after_restore(mut self, text: impl Into<String>) -> Self {
        self.after_restore.push(RecipeStep::Expect(text.into()));
        self
    }

    /// The last step: waits for the prompt of a shell of root's on Linux x86-64, and puts a program of 250 bytes into its `/tmp`.
    /// Whenever the state is restored, it sets the guest's clock to the time when its line was sent, and seeds the kernel's random
    /// numbers anew.
    ///
    /// The shell needs `printf`, `mkdir` and `chmod`; `/tmp` is made if it is not there.
    pub fn root_shell(mut self, prompt: impl Into<String>) -> Self {
        let prompt = Some(prompt.into());
        self.shell = Some(RootShell { prompt });
        self
    }

    /// The same in such a shell that listens already, for another step has come to it: there is no prompt to wait for.
    pub fn in_root_shell(mut self) -> Self {
        self.shell = Some(RootShell { prompt: None });
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The steps, without those of the shell.
    pub fn steps(&self) -> &[RecipeStep] {
        &self.steps
    }

    /// The steps after a restore, without those of the shell.
    pub fn steps_after_restore(&self) -> &[RecipeStep] {
        &self.after_restore
    }

    /// The texts that say that the guest has given up.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How long each text may take to come.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The shell at the end, if there is one.
    pub fn shell(&self) -> Option<&RootShell> {
        self.shell.as_ref()
    }
}

/// The shell at the end of a [`Recipe`], and what is typed into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RootShell {
    prompt: Option<String>,
}

impl RootShell {
    /// What the shell prints once a line of ours has done its work. It is not in the echo of the line.
    pub const DONE: &str = "alpy: done";
    /// What it prints, with the exit status of the command behind it, if the line has not.
    pub const FAILED: &str = "alpy: failed";

    /// What it prints when it waits for a line, if that is known.
    pub fn prompt(&self) -> Option<&str> {
        self.prompt.as_deref()
    }

    /// The line that puts the program there.
    pub fn install_line(&self) -> String {
        let program = octal(&program());
        verdict(&format!(
            "mkdir -p /tmp && printf '{program}' >{PROGRAM} && chmod +x {PROGRAM}"
        ))
    }

    /// The line that wakes a restored guest up, at this time since 1970, with these random bytes.
    pub fn wake_line(&self, now: Duration, random: [u8; 16]) -> String {
        let mut input = Vec::from(now.as_secs().to_le_bytes());
        input.extend(u64::from(now.subsec_nanos()).to_le_bytes());
        input.extend(random);
        verdict(&format!("printf '{}' | {PROGRAM}", octal(&input)))
    }
}

/// Where the program is in the guest.
const PROGRAM: &str = "/tmp/alpy-wake";

/// A command that says how it ended, in words that its own echo has not.
fn verdict(command: &str) -> String {
    format!("{command} && echo alpy: do''ne || echo alpy: fail''ed $?")
}

/// For `printf` of a POSIX shell. What follows each number is never a digit.
fn octal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:o}")).collect()
}

/// An executable (elf(5)) of one segment. It sets `CLOCK_REALTIME` to the first 16 bytes of its input, mixes the other 16 into the
/// kernel's pool of random bits, and has the kernel seed its generator from there (random(4), `RNDRESEEDCRNG`).
///
/// It reads until all 32 bytes are there: a shell's `printf` may write them in several pieces. It exits with 0, or with the number of the
/// step that failed: 1 read, 2 clock_settime, 3 open, 4 ioctl.
///
/// Nothing else does that soon: BusyBox and coreutils cannot, and a kernel without the driver `vmgenid`, as Debian's, does not see that
/// it was restored, so that for some seconds `/dev/urandom` gives the same bytes each time.
fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    #[rustfmt::skip]
    const CODE: &[u8] = &[
        0x48, 0x83, 0xec, 0x40,                               // sub rsp, 64
        0x6a, 0x01, 0x5d, 0x31, 0xdb,                         // step 1: ebp = 1; ebx = 0, the bytes read so far
        0x31, 0xff, 0x48, 0x8d, 0x34, 0x1c,                   // again: rdi = 0; rsi = rsp + rbx
        0x6a, 0x20, 0x5a, 0x29, 0xda,                         // rdx = 32 - ebx
        0x31, 0xc0, 0x0f, 0x05,                               // read
        0x85, 0xc0, 0x7e, 0x4f,                               // end of input, or an error: end
        0x01, 0xc3, 0x83, 0xfb, 0x20, 0x72, 0xe6,             // ebx += eax; less than 32: again
        0xff, 0xc5, 0x31, 0xff, 0x48, 0x89, 0xe6,             // step 2: rdi = CLOCK_REALTIME; rsi = rsp
        0xb8, 0xe3, 0x00, 0x00, 0x00, 0x0f, 0x05,             // clock_settime
        0x85, 0xc0, 0x75, 0x36,                               // not 0: end
        0xff, 0xc5, 0x48, 0x8d, 0x3d, 0x34, 0x00, 0x00, 0x00, // step 3: rdi = the path below
        0x6a, 0x02, 0x5e, 0x6a, 0x02, 0x58, 0x0f, 0x05,       // rsi = O_RDWR; open
        0x85, 0xc0, 0x78, 0x21,                               // less than 0: end
        0xff, 0xc5, 0x89, 0xc7, 0x48, 0x8d, 0x74, 0x24, 0x10, // step 4: rdi = the descriptor; rsi = rsp + 16
        0x6a, 0x10, 0x5a, 0x6a, 0x01, 0x58, 0x0f, 0x05,       // rdx = 16; write
        0xbe, 0x07, 0x52, 0x00, 0x00,                         // rsi = RNDRESEEDCRNG
        0x6a, 0x10, 0x58, 0x0f, 0x05,                         // ioctl
        0x85, 0xc0, 0x75, 0x02, 0x31, 0xed,                   // not 0: end; else ebp = 0
        0x89, 0xef, 0x6a, 0x3c, 0x58, 0x0f, 0x05,             // end: exit(ebp)
        b'/', b'd', b'e', b'v', b'/', b'u', b'r', b'a', b'n', b'd', b'o', b'm', 0,
    ];
    let mut file = Vec::new();
    let half =
        |file: &mut Vec<u8>, numbers: &[u16]| numbers.iter().for_each(|n| file.extend(n.to_le_bytes()));
    let word =
        |file: &mut Vec<u8>, numbers: &[u32]| numbers.iter().for_each(|n| file.extend(n.to_le_bytes()));
    let long =
        |file: &mut Vec<u8>, numbers: &[u64]| numbers.iter().for_each(|n| file.extend(n.to_le_bytes()));
    // 64 bits, little endian, current version; executable, x86-64.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    half(&mut file, &[2, 62]);
    word(&mut file, &[1]);
    // Where it starts, and where the program headers are, for there are no sections.
    long(&mut file, &[BASE + u64::from(HEADERS), 64, 0]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    // All of the file is loaded, to be read and executed.
    word(&mut file, &[1, 5]);
    let size = u64::from(HEADERS) + CODE.len() as u64;
    long(&mut file, &[0, BASE, BASE, size, size, 0x1000]);
    file.extend(CODE);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_nothing_in_the_echo_that_an_answer_would_say() {
        let Some(shell) = Recipe::new("r").root_shell("# ").shell().cloned() else {
            panic!("there is one");
        };
        for line in [
            shell.install_line(),
            shell.wake_line(Duration::from_secs(1), [7; 16]),
        ] {
            assert!(
                !line.contains(RootShell::DONE) && !line.contains(RootShell::FAILED),
                "{line}"
            );
            // The longest line that BusyBox edits has 1023 bytes.
            assert!(line.is_ascii() && line.len() < 1000, "{}: {line}", line.len());
        }
    }

    #[test]
    fn passes_time_and_random_bytes_as_the_program_reads_them() {
        let shell = RootShell {
            prompt: Some("# ".to_owned()),
        };
        let line = shell.wake_line(Duration::new(0x0102, 3), [9; 16]);
        let bytes = format!(
            "\\2\\1{}\\3{}{}",
            "\\0".repeat(6),
            "\\0".repeat(7),
            "\\11".repeat(16)
        );
        assert!(line.starts_with(&format!("printf '{bytes}' | ")), "{line}");
    }
}

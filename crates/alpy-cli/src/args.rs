// SPDX-License-Identifier: GPL-3.0-or-later
//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

const AFTER: &str = "\
TEST is the name of a test as `alpy ps` shows it, or the path of its evidence directory. Runs under way are found wherever their evidence \
is; those that have ended below the evidence base: --evidence, else ALPY_EVIDENCE, else `alpy` in CARGO_TARGET_DIR, else `target/alpy` here \
or above.

Exit status: 0 if it was done; 1 if not, or if something is found to be wrong; 2 if what was typed or a file cannot be right, or the command \
is not for such a test (`alpy resume` of a testbed of `alpy up`, `alpy down` of a test); 3 if there is no such test, link, node or machine, or \
the test has ended or is not held; 130 after Ctrl-C, and 128 and its number after another signal, but 0 for `alpy up --foreground`, which \
Ctrl-C takes down. `alpy exec` has the status of its command: 125 if the engine could not start it, 127 if there is no such program.";

/// See, enter and make testbeds by hand.
///
/// A test is held for you with ALPY_PAUSE=failure (or always) in its environment, and where it calls Testbed::hold.
#[derive(Debug, Parser)]
#[command(name = "alpy", version, after_help = AFTER, max_term_width = 100)]
pub struct Args {
    /// Where evidence directories are.
    #[arg(long, global = true, value_name = "DIR", env = "ALPY_EVIDENCE")]
    pub evidence: Option<PathBuf>,
    /// Answer in JSON, errors too.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the testbeds under way.
    Ps(Ps),
    /// Type into the serial console of a machine, and see what it says. Ctrl-] leaves it.
    ///
    /// It prints the last lines of `console.log` first, as the report shows them: received lines begin with `< `, sent lines with `> `, and a command
    /// of the test is `$ command`, its output and `[exit code 0]`. Then it shows each byte of the machine as it comes, because a terminal needs all
    /// of them. If the test runs a command meanwhile, these bytes include the lines that alpy types to run it.
    ///
    /// What is piped into it is typed; it ends when the machine has said nothing for a while then.
    Console(Console),
    /// Run a command in the network namespace of a node.
    ///
    /// It is a program of this machine, as `ip`, `ping`, `tcpdump` or `bash`, which sees the files of this machine, but can write only below
    /// the working directory. With --image, it is one of a container image.
    Exec(Exec),
    /// Write the frames of a link to stdout as they come: `alpy capture TEST 0 | wireshark -ki-`.
    Capture(Capture),
    /// Pull the cable of a link out, or plug it in, at both ends.
    Link(Link),
    /// Let a test go on that is held.
    Resume(Resume),
    /// Say what this machine lacks, each with a remedy.
    Doctor,
    /// Remove what killed runs may have left.
    Sweep(Sweep),
    /// Make the testbed of a topology file, and keep it until `alpy down`.
    Up(Up),
    /// Take down a testbed that `alpy up` has made.
    Down(Down),
    /// Write the report of a run anew and say where it is; without TEST those of all.
    Report(Report),
    /// Print a script for the completion of a shell: `source <(alpy completion bash)`.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the JSON schema of topology files, for editors.
    Schema,
}

#[derive(Debug, clap::Args)]
pub struct Ps {
    /// The last run of each test too, that has ended.
    #[arg(long, short)]
    pub all: bool,
}

#[derive(Debug, clap::Args)]
pub struct Console {
    /// The test.
    pub test: String,
    /// Which machine, from 0.
    #[arg(long, short, default_value_t = 0, value_name = "N")]
    pub machine: usize,
    /// Behind the end of what is piped in: for how long the machine has to be silent.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    pub wait: f64,
}

/// A time that can be waited for.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let is_time = |seconds: &f64| (0.0..=86_400.0).contains(seconds);
    seconds
        .filter(is_time)
        .ok_or_else(|| "seconds are a number from 0 to 86400".to_owned())
}

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// The test.
    pub test: String,
    /// The node, such as `node0` or `0`.
    pub node: String,
    /// The image to run the command in, instead of this machine's own programs.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Capture {
    /// The test.
    pub test: String,
    /// The link, such as `link0` or `0`; of a run that has ended `all`, too.
    pub link: String,
}

#[derive(Debug, clap::Args)]
pub struct Link {
    /// The test.
    pub test: String,
    /// The link, such as `link0` or `0`.
    pub link: String,
    /// What to do with its cable.
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Pull it out.
    Down,
    /// Plug it in.
    Up,
}

#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The test.
    pub test: String,
}

#[derive(Debug, clap::Args)]
pub struct Sweep {
    /// Only say what would be removed.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub struct Up {
    /// The topology file; `alpy schema` prints its schema.
    pub topology: PathBuf,
    /// Stay here until Ctrl-C or `alpy down`, instead of in the background.
    #[arg(long, short)]
    pub foreground: bool,
    /// Only look whether the file can be right.
    #[arg(long, conflicts_with = "foreground")]
    pub check: bool,
    /// What `alpy up` starts itself.
    #[arg(long, hide = true)]
    pub background: bool,
}

#[derive(Debug, clap::Args)]
pub struct Down {
    /// The testbed.
    pub test: String,
}

#[derive(Debug, clap::Args)]
pub struct Report {
    /// The test.
    pub test: Option<String>,
}

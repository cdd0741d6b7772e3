// SPDX-License-Identifier: GPL-3.0-or-later
//! Works for alpy inside a network namespace: see the documentation of the alpy-netns library.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use alpy_netns::helper::{guard, hold, once, serve};

const USAGE: &str = "usage: alpy-netns-helper serve SOCKET
       alpy-netns-helper once
       alpy-netns-helper hold [SOCKET]
       alpy-netns-helper guard TEST
       alpy-netns-helper --version

serve connects to SOCKET and carries out requests until the other side closes
once  reads one request from standard input, carries it out and prints the reply, both as JSON;
      a tap that is to live as long as its descriptor ends with it
hold  stays until standard input ends, and then ends the pid namespace that it is process 1 of;
      where there is a SOCKET, it first lends what it has of its network namespace to who listens there
guard stays until standard input ends, and then removes what it was told there";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("alpy-netns-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| word.to_str().unwrap_or_default())
        .collect();
    match words[..] {
        ["serve", _] => on_socket(Path::new(&arguments[1]), serve)?,
        ["once"] => once()?,
        ["hold"] => hold(None)?,
        ["hold", _] => on_socket(Path::new(&arguments[1]), |socket| hold(Some(socket)))?,
        ["guard", _] => guard()?,
        ["--version"] => println!("alpy-netns-helper {}", env!("CARGO_PKG_VERSION")),
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn on_socket(socket: &Path, job: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), String> {
    job(socket).map_err(|error| format!("{}: {error}", socket.display()))
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask images`.

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Args;
use crate::images::{self, Base, Options};
use crate::needs;
use crate::workspace::Workspace;

const HELP: &str = "\
Build rabbit, the sample appliance, the further machines of the tests, and the root file systems of their containers.

Usage: cargo xtask images [--base host|alpine] [--refresh]

  --base host    From packages of this machine's own distribution, Debian or Ubuntu (the default)
  --base alpine  From packages of Alpine Linux; ALPINE_MIRROR chooses the mirror
  --refresh      Look for newer packages even if nothing else has changed";

/// Builds the images.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let (mut base, mut refresh) = (Base::default(), false);
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "--base" => base = base_of(&mut args)?,
            "--refresh" => refresh = true,
            "-h" | "--help" => return Ok(args.help()),
            other => return Err(args.unknown(other)),
        }
    }
    needs::ensure(images::PROGRAMS)?;
    let workspace = Workspace::read()?;
    let (root, target) = (workspace.root, workspace.target);
    images::build(&Options {
        workspace: root,
        target: target.clone(),
        base,
        refresh,
    })?;
    println!("{}", target.join("alpy/images").display());
    Ok(ExitCode::SUCCESS)
}

/// The value of `--base`.
pub fn base_of(args: &mut Args) -> Result<Base> {
    match args.value("--base")?.as_str() {
        "host" => Ok(Base::Host),
        "alpine" => Ok(Base::Alpine),
        other => Err(args.error(&format!("--base is host or alpine, not {other}"))),
    }
}

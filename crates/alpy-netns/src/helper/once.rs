// SPDX-License-Identifier: GPL-3.0-or-later
use std::io::{self, Write};

use super::carry_out::carry_out;
use crate::{Reply, Request};

/// Carries out the request that is on standard input and prints the [`Reply`], both as JSON: for a place that has no socket to connect
/// to.
///
/// What the request passes by descriptor it cannot have. The descriptors of its taps end with the process.
///
/// # Errors
/// What came is no request, or it was not carried out; the reply, which says why, is printed all the same.
pub fn once() -> io::Result<()> {
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let (reply, outcome, _taps) = match carry_out(&request, Vec::new()) {
        Ok(answer) => (Reply::Done { links: answer.links }, Ok(()), answer.taps),
        Err(failure) => {
            let error = io::Error::other(failure.to_string());
            (Reply::Failed(failure), Err(error), Vec::new())
        }
    };
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, &reply)?;
    writeln!(output)?;
    outcome
}

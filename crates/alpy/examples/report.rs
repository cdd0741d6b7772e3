// SPDX-License-Identifier: GPL-3.0-or-later
//! Makes the reports of runs anew from their evidence: `cargo run -p alpy --example report -- target/alpy/forward-ipv4`.

use std::time::Instant;

fn main() -> Result<(), alpy::Error> {
    for dir in std::env::args_os().skip(1) {
        let began = Instant::now();
        let page = alpy::report::render(dir)?;
        println!("{} ({:.0?})", page.display(), began.elapsed());
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! Measures alpy beside its peers. `cargo xtask bench` builds this, gives it an engine, images and peers, and reads what it prints:
//! one line of JSON for each figure, see [`figure`].

mod capacity;
mod console;
mod docker;
mod extent;
mod figure;
mod measure;
mod netns;
mod pcap;
mod peer;
mod qmp;
mod testbed;

use anyhow::{Context, Result, bail};

use extent::{Extent, Size};

/// Usage: `alpy-bench AREA RUNS LINKS SIZE`, where LINKS is such as `2,8,16` and SIZE is `full` or `smoke`. An area starts this program
/// again, with other arguments, to measure the memory and the processor time of one part.
fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["console-reader", what, ref rest @ ..] => return console::reader(what, rest),
        ["capacity-test", kind] => return capacity::test(kind),
        ["netns-maker", what, count] => return netns::maker(what, count.parse()?),
        _ => {}
    }
    let [area, runs, links, size] = words[..] else {
        bail!("usage: alpy-bench AREA RUNS LINKS SIZE, not {words:?}; run `cargo xtask bench`");
    };
    let links: Result<Vec<usize>, _> = links.split(',').map(str::parse).collect();
    let extent = Extent {
        runs: runs.parse().context(runs.to_owned())?,
        links: links.with_context(|| words[2].to_owned())?,
        size: Size::named(size)?,
    };
    match area {
        "testbed" => testbed::measure(&extent),
        "capacity" => capacity::measure(&extent),
        "qmp" => qmp::measure(&extent),
        "console" => console::measure(&extent),
        "pcap" => pcap::measure(&extent),
        "netns" => netns::measure(&extent),
        "docker" => docker::measure(&extent),
        other => bail!("no such area: {other}"),
    }
}

/// The order of the subjects in a run: each run begins with another one.
fn order(count: usize, run: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| (index + run) % count)
}

// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong around a testbed.

use std::io;
use std::path::PathBuf;

use crate::failure::chain;
use crate::step::StepTimeout;

/// The result of the facade's own operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason for which a test cannot be judged.
///
/// A [`Failure`](crate::Failure) is [unjudged](crate::Failure::is_unjudged) if this type is in the chain of its error's sources. An error library such
/// as anyhow may hide the type of the error that it holds, but not the types of its sources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the host was overloaded: {why}; remedy: run the test again on a host with less load")]
#[non_exhaustive]
pub struct Overload {
    /// The measurement, and the part of it in which the machine did not run.
    pub why: String,
}

/// Why a testbed, or a part of one, could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of a test is used for a directory and for containers.
    #[error(
        "test name {name:?} is not made of ASCII letters, digits, '.', '_' and '-' alone, or starts with a '.'"
    )]
    TestName {
        /// The name.
        name: String,
    },
    /// The evidence directory cannot be used.
    #[error("evidence directory {}", dir.display())]
    Evidence {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no report of a run to be made.
    #[error("make the report of {}", dir.display())]
    Report {
        /// The evidence directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A testbed of another process cannot be reached, or does not do what it is asked for.
    #[error("testbed of {}", dir.display())]
    Control {
        /// Its evidence directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no run in a directory.
    #[error("no run in {}", dir.display())]
    NoRun {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value of a link is bad.
    #[error("link {index}")]
    Link {
        /// Which link, from 0.
        index: usize,
        /// The value, and what is wrong with it.
        source: alpy_netns::Error,
    },
    /// A link of a machine that the testbed does not have.
    #[error(
        "link {index} is of machine {machine}, and the testbed has {count}, counted from 0; remedy: another number, or one more \
         TestbedBuilder::machine"
    )]
    NoMachine {
        /// Which link, from 0.
        index: usize,
        /// Which machine it asks for.
        machine: usize,
        /// How many there are.
        count: usize,
    },
    /// A measurement says nothing of what was measured; made by [`Testbed::cannot_be_judged`](crate::Testbed::cannot_be_judged).
    #[error("cannot be judged")]
    HostOverloaded {
        /// What was measured, and for how much of it the machine did not run.
        source: Overload,
    },
    /// A machine ended in the middle of a test with several.
    #[error("machine {index} is gone")]
    MachineGone {
        /// Which machine, from 0.
        index: usize,
        /// How it ended.
        source: alpy_qemu::Error,
    },
    /// A machine that has ended was to be changed.
    #[error("machine {index} has ended: nothing can be plugged in or pulled out")]
    MachineOff {
        /// Which machine, from 0.
        index: usize,
    },
    /// The NIC at an end of a link has been pulled out of its machine.
    #[error("link {index} has no NIC any more at machine {machine}: it was pulled out")]
    NicGone {
        /// Which link, from 0.
        index: usize,
        /// Which machine, from 0.
        machine: usize,
    },
    /// An end of a cable that the link does not have.
    #[error("link {index} has no end {end:?}")]
    NoCableEnd {
        /// Which link, from 0.
        index: usize,
        /// The end.
        end: crate::CableEnd,
    },
    /// A gateway that no node could use.
    #[error("link {index}: gateway {gateway:?}: {reason}")]
    Gateway {
        /// Which link, from 0.
        index: usize,
        /// The text.
        gateway: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Taps by name were asked for, and the engine is rootless.
    #[error(
        "taps by name need an engine whose host network is QEMU's, and this one is rootless; remedy: taps by descriptor, or a \
         rootful engine"
    )]
    NamedTapsRootless,
    /// Not all of a skeleton could be removed. The guardian of the run goes on trying.
    #[error("not all of the skeleton is removed: {}", list(errors))]
    NotClosed {
        /// Each error.
        errors: Vec<Error>,
    },
    /// A helper container did not do what it was asked to.
    #[error("helper {name}")]
    Helper {
        /// Its name in the evidence.
        name: String,
        /// Why not.
        source: alpy_netns::Error,
    },
    /// A helper container ended without an answer.
    #[error("helper {name} ended without an answer")]
    HelperSilent {
        /// Its name in the evidence.
        name: String,
    },
    /// The process that would remove what this one leaves if it is killed.
    #[error("no run without its guardian")]
    Guardian(#[source] alpy_netns::Error),
    /// A file that only lives as long as a run cannot be made, or not be removed.
    #[error("temporary folder of the run")]
    Scratch(#[source] io::Error),
    /// The folder of saved states cannot be used.
    #[error("saved states in {}; remedy: ALPY_SAVED_STATES=off, or another folder in ALPY_STATES_DIR", folder.display())]
    SavedStates {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A variable of the environment has a value that is none.
    #[error("{name}={value:?} is not {remedy}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        remedy: &'static str,
    },
    /// A state that was saved just before could not be loaded.
    #[error(
        "the saved state cannot be restored: {reason}; remedy: without saved_state, or ALPY_SAVED_STATES=off"
    )]
    NotRestored {
        /// Why not.
        reason: String,
    },
    /// A guest has said that it gives up, in the words that its recipe has for this.
    #[error("the guest has given up: {text}")]
    GaveUp {
        /// The words, and the rest of their line.
        text: String,
    },
    /// A recipe has a step that is not one of alpy's.
    #[error(
        "nobody here knows how to take the step {name:?} of the recipe; remedy: steps of Recipe, or alpy::after_login"
    )]
    UnknownStep {
        /// The name of the step.
        name: String,
    },
    /// A guest's shell could not set up what a saved state needs.
    #[error(
        "the guest's shell could not run the line for {what}: it printed {printed:?}; remedy: lines of your own, see Recipe::line_after_restore"
    )]
    GuestShell {
        /// The purpose of the line.
        what: &'static str,
        /// The last line that the shell printed: `alpy: failed`, and the exit status. The program that wakes the guest exits with 1 if
        /// it cannot read its input, 2 if it cannot set the clock, 3 and 4 if it cannot open `/dev/urandom` and seed it.
        printed: String,
    },
    /// The runtime or its signal handlers cannot be set up.
    #[error("cannot set up the asynchronous runtime")]
    Runtime(#[source] io::Error),
    /// A node ended in the middle of a test.
    #[error("node {index} is gone: {reason}")]
    NodeGone {
        /// Which link's node, from 0.
        index: usize,
        /// How it ended, and what it said.
        reason: String,
    },
    /// The kernel does not let the cable of a link be pulled or plugged at the node's end.
    #[error("the cable of link {index}")]
    Cable {
        /// Which link, from 0.
        index: usize,
        /// Why not.
        source: io::Error,
    },
    /// A step took longer than it may.
    #[error(transparent)]
    StepTimeout(#[from] StepTimeout),
    /// From the container engine.
    #[error(transparent)]
    Docker(#[from] alpy_docker::Error),
    /// From QEMU.
    #[error(transparent)]
    Qemu(#[from] alpy_qemu::Error),
    /// From QEMU's monitor.
    #[error(transparent)]
    Qmp(#[from] alpy_qmp::Error),
    /// From the serial console.
    #[error(transparent)]
    Console(#[from] alpy_console::Error),
    /// From a capture.
    #[error(transparent)]
    Pcap(#[from] alpy_pcap::Error),
}

fn list(errors: &[Error]) -> String {
    let errors: Vec<_> = errors.iter().map(|error| chain(error)).collect();
    errors.join("; ")
}

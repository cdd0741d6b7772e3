// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine at the end of its recipe: booted there, or restored.

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alpy_console::Console;
use alpy_qemu::{
    Accelerator, Backend, Machine, Nic, Options, Qemu, Recipe, RecipeStep, RootShell, fingerprint,
};
use alpy_qmp::Timer;
use tokio::time::timeout;
use tracing::info;

use super::dut::Name;
use crate::error::{Error, Result};
use crate::login;
use crate::processor::Schedules;
use crate::run::Run;
use crate::states::{Held, Key, Lock, SavedStates, Store, on_thread};
use crate::step;
use crate::step::within_timed;

/// How long QEMU may take to write or to load a state, and to end after that.
const LIMIT: Duration = Duration::from_secs(60);

/// How long others may have a state for themselves before it is said that they build it: a look at it takes less.
const LOOK: Duration = Duration::from_millis(200);

/// How much a state may take beside the memory, in bytes: the devices, the overlays of disks, the console.
const MORE: u64 = 64 << 20;

/// The time limit for the rest of a line that has begun.
const REST_OF_LINE: Duration = Duration::from_secs(5);

/// The name of the folder in the evidence of what a boot that is saved writes.
const FOLDER: &str = "saved-state";

/// The bytes that a console had received behind the end of the recipe when the state was saved.
const UNREAD: &str = "console.unread";

/// What states are looked for with, and built.
pub(super) struct Builder<'a> {
    pub(super) name: Name,
    pub(super) machine: &'a Machine,
    pub(super) macs: &'a [[u8; 6]],
    pub(super) accelerator: &'a Accelerator,
    pub(super) run: &'a Run,
    /// When the run began.
    pub(super) began: Instant,
    /// The folder for the machine's evidence.
    pub(super) evidence: &'a Path,
    /// How long each step may take.
    pub(super) share: Duration,
    pub(super) schedules: &'a Schedules,
    pub(super) timer: &'a Timer,
}

/// A state to begin with.
pub(super) struct State {
    store: Store,
    key: Key,
    held: Held,
    name: Name,
}

impl Builder<'_> {
    /// The state for the machine; it is built if there is none. `None` where the machine is to boot.
    pub(super) async fn state(&self, states: &SavedStates) -> Result<Option<State>> {
        let Some(recipe) = self.machine.recipe() else {
            return Ok(None);
        };
        let store = match states.open() {
            Ok(store) => store,
            Err(reason) => {
                info!(target: "alpy::states", "No saved state is used: {reason}");
                return Ok(None);
            }
        };
        let (machine, accelerator) = (self.machine.clone(), self.accelerator.clone());
        let (macs, memory) = (self.macs.to_vec(), store.checksums());
        let key = on_thread(move || {
            Ok(Key::new(fingerprint(
                &machine,
                &nics(&macs),
                &accelerator,
                &memory,
            )?))
        });
        let key =
            step!(target: "alpy::states", within: self.share, self.name.step("Look for a saved state"), key)
                .await?;
        match self.obtain(&store, &key, recipe).await {
            Ok(held) => Ok(Some(State {
                store,
                key,
                held,
                name: self.name,
            })),
            // A full disk, for example: a test is not to fail for it that needs no state.
            Err(error @ Error::SavedStates { .. }) => {
                info!(target: "alpy::states", "No saved state is used: {}", crate::failure::chain(&error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A state in place of one that could not be loaded.
    pub(super) async fn replace(&self, state: State, reason: &str) -> Result<State> {
        let State {
            store,
            key,
            held,
            name,
        } = state;
        info!(target: "alpy::states", "Saved state {} is not used: {reason}", key.short());
        store.discard(&held);
        drop(held);
        let recipe = self.machine.recipe().expect("it has a state");
        let held = self.obtain(&store, &key, recipe).await?;
        Ok(State {
            store,
            key,
            held,
            name,
        })
    }

    async fn obtain(&self, store: &Store, key: &Key, recipe: &Recipe) -> Result<Held> {
        if let Some(held) = store.look(key).await? {
            return Ok(held);
        }
        // Others may have looked at this moment too: one of them will be the first.
        let mut alone = pin!(store.lock_alone(key));
        let lock = match timeout(LOOK, &mut alone).await {
            Ok(lock) => lock?,
            Err(_) => {
                let text = format!("Wait until saved state {} is built", key.short());
                // The machine of the other process may be starved, and has ten times as long then.
                let limit = self.share.saturating_mul(10);
                step!(target: "alpy::states", within: limit, self.name.step(&text), alone).await?
            }
        };
        match store.look_with(key, lock).await? {
            Ok(held) => Ok(held),
            Err((lock, reason)) => {
                let text = format!("Boot and save state {} {}", recipe.name(), key.short());
                let text = format!("{}: {reason}", self.name.step(&text));
                let build = self.build(store, key, lock, recipe);
                let build = within_timed(self.timer, self.share, build);
                step!(target: "alpy::states", text, build).await
            }
        }
    }

    async fn build(&self, store: &Store, key: &Key, lock: Lock, recipe: &Recipe) -> Result<Held> {
        let folder = store.unfinished_name(key, self.run.id());
        self.run.guard_folder(&folder)?;
        let unfinished = store.begin(key, folder, self.machine.memory_bytes() + MORE, lock)?;
        let log = self.evidence.join(FOLDER);
        fs::create_dir_all(&log).map_err(|source| Error::Evidence {
            dir: log.clone(),
            source,
        })?;
        let options = Options::new()
            .evidence(&log)
            .clock_start(self.began)
            .timer(Arc::clone(self.timer))
            .accelerator(self.accelerator.clone())
            .save_to(unfinished.folder());
        let mut qemu = Qemu::start(self.machine, nics(self.macs), options).await?;
        self.schedules.add(self.name.index, qemu.schedule().clone());
        let stream = qemu.take_console().expect("nobody has taken it yet");
        let console = Console::builder()
            .transcript(&log)
            .timer(Arc::clone(self.timer))
            .on_command(self.name.on_command())
            .start(stream)?;
        qemu.start_cpu().await?;
        tokio::select! {
            biased;
            end = follow(recipe, &console) => end?,
            error = qemu.unexpected_end() => return Err(error.into()),
        }
        // A test is not to fail for a state that it does not need.
        let saved = qemu.save(LIMIT).await;
        saved.map_err(|error| store.failed(std::io::Error::other(error)))?;
        let version = version(&qemu);
        qemu.quit(LIMIT).await?;
        console.close(LIMIT).await?;
        let keep = || {
            for name in ["console.log", "console.raw"] {
                fs::copy(log.join(name), unfinished.folder().join(name))?;
            }
            fs::write(unfinished.folder().join(UNREAD), console.try_read())
        };
        keep().map_err(|source| store.failed(source))?;
        store.finish(unfinished, version).await
    }
}

impl State {
    pub(super) fn folder(&self) -> &Path {
        &self.held.folder
    }

    /// Has a QEMU that was started with it load it; says why it could not.
    pub(super) async fn load(&self, qemu: &Qemu) -> std::result::Result<(), String> {
        let load = async {
            let (ours, theirs) = (version(qemu), &self.held.manifest.qemu);
            if ours != *theirs {
                return Err(format!("QEMU {theirs} has saved it, and this is QEMU {ours}"));
            }
            let loaded = qemu.restore(LIMIT).await;
            loaded.map_err(|error| crate::failure::chain(&error))
        };
        let text = format!("Restore saved state {}", self.key.short());
        step!(target: "alpy::states", self.name.step(&text), load).await
    }

    /// A console that goes on where the one of the saved machine was.
    pub(super) fn console(&self, console: alpy_console::Builder) -> Result<alpy_console::Builder> {
        let path = self.held.folder.join(UNREAD);
        let unread = fs::read(&path).map_err(|source| Error::Evidence { dir: path, source })?;
        Ok(console.history(&self.held.folder, unread))
    }
}

/// Does what a recipe says, with a machine that boots.
pub(super) async fn follow(recipe: &Recipe, console: &Console) -> Result<()> {
    steps(recipe, recipe.steps(), console).await?;
    let Some(shell) = recipe.shell() else {
        return Ok(());
    };
    if let Some(prompt) = shell.prompt() {
        expect(recipe, prompt, console).await?;
    }
    if !recipe.steps_after_restore().is_empty() {
        // These are in place of the program.
        return Ok(());
    }
    let line = shell.install_line();
    type_in(recipe, shell, &line, "a program to wake up with", console).await
}

/// Does what a recipe says, with a machine that was restored.
pub(super) async fn wake(recipe: &Recipe, console: &Console) -> Result<()> {
    steps(recipe, recipe.steps_after_restore(), console).await?;
    match recipe.shell() {
        Some(shell) if recipe.steps_after_restore().is_empty() => {
            let line = shell.wake_line(now(), random()?);
            type_in(recipe, shell, &line, "clock and random numbers", console).await
        }
        _ => Ok(()),
    }
}

async fn steps(recipe: &Recipe, steps: &[RecipeStep], console: &Console) -> Result<()> {
    for step in steps {
        match step {
            RecipeStep::Expect(text) => expect(recipe, text, console).await?,
            RecipeStep::Other(step) => login::take(step, console).await?,
            RecipeStep::Line(line) => {
                let seconds = (now() + Duration::from_millis(500)).as_secs();
                let random: String = random()?.iter().map(|byte| format!("{byte:02x}")).collect();
                let line = line.replace("{now}", &seconds.to_string());
                console.send_line(&line.replace("{random}", &random)).await?;
            }
            _ => unreachable!("this crate knows all steps"),
        }
    }
    Ok(())
}

async fn expect(recipe: &Recipe, text: &str, console: &Console) -> Result<()> {
    let needles = [text]
        .into_iter()
        .chain(recipe.failures().iter().map(String::as_str));
    let wait = async {
        let seen = console.expect_any(needles, recipe.limit()).await?;
        if seen.index == 0 {
            return Ok(());
        }
        let rest = console.read_line(REST_OF_LINE).await.unwrap_or_default();
        Err(Error::GaveUp {
            text: format!("{}{rest}", recipe.failures()[seen.index - 1]),
        })
    };
    step!(target: "alpy::console", format!("Wait for {text:?}"), wait).await
}

/// Types a line in, and waits for its outcome and the next prompt.
async fn type_in(
    recipe: &Recipe,
    shell: &RootShell,
    line: &str,
    what: &'static str,
    console: &Console,
) -> Result<()> {
    console.hide(RootShell::DONE);
    let dialogue = async {
        console.send_line(line).await?;
        let seen = console
            .expect_any([RootShell::DONE, RootShell::FAILED], recipe.limit())
            .await?;
        if seen.index != 0 {
            let status = console.read_line(REST_OF_LINE).await.unwrap_or_default();
            let printed = format!("{}{}", RootShell::FAILED, status.trim_end());
            return Err(Error::GuestShell { what, printed });
        }
        if let Some(prompt) = shell.prompt() {
            console.expect(prompt, recipe.limit()).await?;
        }
        Ok(())
    };
    console.aside(dialogue).await
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn random() -> Result<[u8; 16]> {
    use std::io::Read;
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0; 16];
    let read = fs::File::open(SOURCE).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| Error::Evidence {
        dir: SOURCE.into(),
        source,
    })?;
    Ok(bytes)
}

fn nics(macs: &[[u8; 6]]) -> Vec<Nic> {
    macs.iter()
        .map(|mac| Nic::new(Backend::Nowhere).mac(*mac))
        .collect()
}

fn version(qemu: &Qemu) -> String {
    let version = &qemu.qmp().greeting().version;
    format!("{} {}", version.qemu, version.package.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn waking_a_guest_leaves_nothing_for_people_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let (near, mut far) = tokio::io::duplex(4096);
        let console = Console::builder().transcript(dir.path()).start(near).unwrap();
        let recipe = Recipe::new("r").root_shell("# ");
        let guest = async {
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                line.push(far.read_u8().await.unwrap());
            }
            far.write_all(&line).await.unwrap();
            far.write_all(b"[    1.5] eth0: up\r\nalpy: done\r\n# ")
                .await
                .unwrap();
        };
        let (woken, ()) = tokio::join!(wake(&recipe, &console), guest);
        woken.unwrap();
        console.close(LIMIT).await.unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("console.raw").contains("alpy: done"));
        let log = read("console.log");
        assert!(log.contains("eth0: up") && !log.contains("alpy"), "{log}");
        assert!(!console.tail(10).contains("alpy"), "{}", console.tail(10));
    }
}

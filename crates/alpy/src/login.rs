// SPDX-License-Identifier: GPL-3.0-or-later
//! The login of a guest as the recipe of a machine: what of two crates that do not know each other belongs together.

use alpy_console::{Console, Guest};
use alpy_qemu::{OtherStep, Recipe, RecipeStep};

use crate::error::{Error, Result};
use crate::step;

/// What the login is called in the log.
pub(crate) const STEP: &str = "Wait for the system to boot and log in";

/// The name of the step.
const NAME: &str = "login";

/// A recipe that boots the guest and [logs in](Guest::log_in): what is known of a guest is said once, for its saved state and for the test.
///
/// ```no_run
/// use alpy::console::Guest;
/// use alpy::qemu::{Disk, Machine};
/// use alpy::{Link, TestResult, Testbed, after_login};
///
/// fn appliance() -> Guest {
///     Guest::debian().ready("appliance login: ").password("secret")
/// }
///
/// #[test]
/// fn has_an_address() -> Result<(), alpy::Failure> {
///     let machine = Machine::new().disk(Disk::new("appliance.qcow2"));
///     Testbed::builder("has-an-address")
///         .machine(machine.saved_state(after_login(appliance())))
///         .link(Link::new().address("192.168.0.1/24"))
///         .run_blocking(async |bed| -> TestResult {
///             bed.start_cpu().await?;
///             let mut shell = bed.dut(0).log_in(&appliance()).await?;
///             shell.run("ip address show dev eth0").await?;
///             Ok(())
///         })
/// }
/// ```
///
/// [`Dut::log_in`](crate::Dut::log_in) gives the shell, restored or booted. A guest of other prompts, passwords or limits has another state. The
/// state has the guest logged in, and whatever it knows of its passwords.
///
/// If the shell is root's, it is a [`Recipe::root_shell`]: the guest has the time and random numbers of its own after each restore, for which it
/// has to be Linux on x86-64. For others, [`line_after_restore`](Recipe::line_after_restore) takes its place. More steps go on in the shell.
pub fn after_login(guest: Guest) -> Recipe {
    let is_root = guest.is_root();
    let recipe = Recipe::new("logged-in").other(NAME, guest);
    match is_root {
        true => recipe.in_root_shell(),
        false => recipe,
    }
}

/// Takes a step that only this crate knows.
pub(crate) async fn take(step: &OtherStep, console: &Console) -> Result<()> {
    let Some(guest) = step.value::<Guest>() else {
        let name = step.name().to_owned();
        return Err(Error::UnknownStep { name });
    };
    // Of the shell, the guest's side is what stays: the next one who attaches finds it.
    let log_in = guest.log_in(console);
    step!(target: "alpy::console", STEP, log_in).await?;
    Ok(())
}

/// Whether somebody is in a shell at the end of a recipe.
pub(crate) fn is_in_shell(recipe: &Recipe) -> bool {
    let is_login =
        |step: &RecipeStep| matches!(step, RecipeStep::Other(step) if step.value::<Guest>().is_some());
    recipe.shell().is_some() || recipe.steps().iter().any(is_login)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_guest_has_a_state_of_its_own_whose_key_tells_no_password() {
        let guest = || Guest::debian().password("open sesame");
        let guests = [
            guest(),
            guest().password("close sesame"),
            guest().root_password("open sesame"),
            guest().ready("appliance login: "),
            guest().user("admin").root_by("su -"),
            guest().user("admin").root_by("sudo -i"),
            guest().gives_up_at("config: fatal"),
            guest().loud_kernel(),
        ];
        let keys: HashSet<_> = guests
            .iter()
            .map(|guest| format!("{:?}", after_login(guest.clone())))
            .collect();
        assert_eq!(keys.len(), guests.len(), "{keys:?}");
        assert!(!keys.iter().any(|key| key.contains("sesame")), "{keys:?}");
        assert_eq!(after_login(guest()), after_login(guest()));
    }

    #[test]
    fn a_guest_wakes_up_in_roots_shell_alone() {
        let user = Guest::busybox().user("admin");
        assert!(after_login(user.clone()).shell().is_none());
        assert!(is_in_shell(&after_login(user.clone())));
        assert!(after_login(user.root_by("sudo -i")).shell().is_some());
        assert!(!is_in_shell(&Recipe::new("ready").expect("login: ")));
        assert!(is_in_shell(&Recipe::new("by hand").root_shell("# ")));
    }

    #[tokio::test]
    async fn a_step_that_nobody_knows_is_an_error() {
        let (near, _far) = tokio::io::duplex(100);
        let console = Console::builder().start(near).unwrap();
        let recipe = Recipe::new("r").other("knock", 3_u32);
        let [RecipeStep::Other(step)] = recipe.steps() else {
            panic!("one such step: {recipe:?}");
        };
        let error = take(step, &console).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the step \"knock\" of the recipe"), "{text}");
    }
}

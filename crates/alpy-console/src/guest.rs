// SPDX-License-Identifier: GPL-3.0-or-later
//! What alpy has to know of a guest to get a shell of it, as data.

pub(crate) mod login;
pub(crate) mod needle;
mod secret;

use std::time::Duration;

use secret::Secret;

use crate::{Console, Error, RemoteShell};

/// A guest with a POSIX shell on its console: what it says when it is ready, who logs in, how it is powered off.
///
/// It is plain data, so that it can be kept beside the image that it belongs to, compared, and changed for one test. There are
/// adapters for [BusyBox and Alpine](Self::busybox) and for [Debian and its like](Self::debian); the rest differ in a word or two:
///
/// ```
/// use std::time::Duration;
/// use alpy_console::Guest;
///
/// /// An appliance that boots slowly, lets only `admin` in, and has `sudo`.
/// fn appliance() -> Guest {
///     Guest::debian()
///         .ready("appliance login: ")
///         .user("admin")
///         .password("secret")
///         .root_by("sudo -i")
///         .root_password("secret")
///         .gives_up_at("cannot mount /config")
///         .power_off_command("request system halt")
///         .boot_limit(Duration::from_secs(300))
/// }
/// ```
///
/// What a prompt looks like need not be known: [`log_in`](Self::log_in) gives the shell a random one. For what has no such shell,
/// as firmware and the command lines of vendors, see [`Cli`](crate::Cli) and [`Menu`](crate::Menu).
///
/// Passwords are in no `Debug` output, and the transcript has [`<password>`](Console::send_secret_line) where they are typed.
///
/// All texts are found though the guest colours them, and though its kernel prints a message in the middle of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Guest {
    ready: String,
    user: Option<String>,
    password: Option<Secret>,
    password_prompts: Vec<String>,
    refusals: Vec<String>,
    failures: Vec<String>,
    root_command: Option<String>,
    root_password: Option<Secret>,
    power_off: String,
    boot_limit: Duration,
    limit: Duration,
    silence: Duration,
    quiet_kernel: bool,
}

impl Guest {
    /// A guest that BusyBox's `init` and `getty` bring up, as Alpine: root logs in without a password.
    pub fn busybox() -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self {
            ready: "login: ".to_owned(),
            user: Some("root".to_owned()),
            password: None,
            password_prompts: texts(&["assword: ", "assword for "]),
            refusals: texts(&[
                "Login incorrect",
                "incorrect password",
                "Authentication failure",
                "su: Permission denied",
                "Sorry, try again",
                "not in the sudoers file",
            ]),
            failures: texts(&["Kernel panic"]),
            root_command: None,
            root_password: None,
            power_off: "poweroff".to_owned(),
            boot_limit: Duration::from_secs(120),
            limit: Duration::from_secs(30),
            silence: Duration::from_secs(5),
            quiet_kernel: true,
        }
    }

    /// A guest that systemd brings up, as Debian, Ubuntu and Fedora: root logs in, without a password until one is
    /// [given](Self::password). An emergency shell in place of the login is an error at once.
    pub fn debian() -> Self {
        Self::busybox()
            .gives_up_at("You are in emergency mode")
            // Of initramfs-tools, where the root file system is not found.
            .gives_up_at("Dropping to a shell!")
            .power_off_command("systemctl poweroff")
            .boot_limit(Duration::from_secs(180))
    }

    /// What the console shows when somebody may log in, `login: ` by default.
    pub fn ready(mut self, text: impl Into<String>) -> Self {
        self.ready = text.into();
        self
    }

    /// Who logs in, `root` by default.
    pub fn user(mut self, name: impl Into<String>) -> Self {
        self.user = Some(name.into());
        self
    }

    /// The user's password, none by default. It is typed where the guest asks for it.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Secret::from(password.into()));
        self
    }

    /// How the guest asks for a password, in place of `assword: ` and `assword for `.
    pub fn password_prompt(mut self, text: impl Into<String>) -> Self {
        self.password_prompts = vec![text.into()];
        self
    }

    /// Nobody has to log in: there is a shell once the console shows this text, such as `automatic login` of util-linux' agetty or
    /// `Please press Enter` of BusyBox' init. The shell is taken for root's.
    pub fn autologin(mut self, ready: impl Into<String>) -> Self {
        self.user = None;
        self.ready(ready)
    }

    /// The command that gives the user a shell of root's, such as `sudo -i` or `su -`; none by default.
    pub fn root_by(mut self, command: impl Into<String>) -> Self {
        self.root_command = Some(command.into());
        self
    }

    /// What that command asks for, none by default.
    pub fn root_password(mut self, password: impl Into<String>) -> Self {
        self.root_password = Some(Secret::from(password.into()));
        self
    }

    /// One more text that says that somebody was not let in; `Login incorrect` and others of its kind are known.
    pub fn refuses_with(mut self, text: impl Into<String>) -> Self {
        self.refusals.push(text.into());
        self
    }

    /// One more text that says that the guest has given up, so that nobody waits for it any longer; `Kernel panic` is known.
    pub fn gives_up_at(mut self, text: impl Into<String>) -> Self {
        self.failures.push(text.into());
        self
    }

    /// The command that powers the guest off.
    pub fn power_off_command(mut self, command: impl Into<String>) -> Self {
        self.power_off = command.into();
        self
    }

    /// How long the guest may take until it is ready, 2 min by default, 3 min for Debian. A busy machine without KVM takes its time.
    pub fn boot_limit(mut self, limit: Duration) -> Self {
        self.boot_limit = limit;
        self
    }

    /// How long each of the rest may take, 30 s by default: the login, the command for root's shell, and then each command of the
    /// shell that does not say otherwise.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long the console is silent until an empty line is sent, so that the guest shows its prompt once more; 5 s by default.
    ///
    /// That helps where somebody has read the prompt already, or it was torn to pieces. In the menu of a boot loader it chooses the
    /// default, and the firmware of a machine without a boot loader may take it for its key: give such a guest a longer time.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Lets the kernel print to the console while commands run. By default, it is [quiet](crate::ShellBuilder::quiet_kernel) if the shell
    /// is root's.
    pub fn loud_kernel(mut self) -> Self {
        self.quiet_kernel = false;
        self
    }

    /// Waits until the guest is ready, logs in, and attaches to the shell.
    ///
    /// The prompt of the shell becomes a random text. It is set, again and again, until it is seen, so neither what the guest's
    /// own prompt looks like nor what is printed around it matters, and type-ahead may get lost. What came before the call and was not
    /// read yet counts.
    ///
    /// Not cancel safe: the guest may be anywhere.
    ///
    /// # Errors
    /// [`Error::GaveUp`] if the guest has, [`Error::Refused`] if it lets nobody in, [`Error::Timeout`] after one of the limits, and
    /// as [`ShellBuilder::attach`](crate::ShellBuilder::attach).
    pub async fn log_in(&self, console: &Console) -> Result<RemoteShell, Error> {
        login::wait_ready(self, console).await?;
        login::enter(self, console).await?;
        login::become_root(self, console).await?;
        login::attach(self, console).await
    }

    /// Attaches to a shell in which somebody is logged in already, as at the end of a saved state.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// As [`log_in`](Self::log_in).
    pub async fn attach(&self, console: &Console) -> Result<RemoteShell, Error> {
        login::attach(self, console).await
    }

    /// Sends the command that powers the guest off. When the machine is off, its QEMU says so.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// [`Error::Timeout`] if a command before is still running and cannot be interrupted, and as [`Console::send`].
    pub async fn power_off(&self, shell: &mut RemoteShell) -> Result<(), Error> {
        shell.settle(self.limit).await?;
        shell.console().send_line(&self.power_off).await
    }

    /// Whether the shell is root's: root logs in, nobody has to, or there is a [command](Self::root_by) for it.
    pub fn is_root(&self) -> bool {
        self.root_command.is_some() || self.user.as_ref().is_none_or(|user| user == "root")
    }
}

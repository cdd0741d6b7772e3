// SPDX-License-Identifier: GPL-3.0-or-later
//! A TPM: swtpm, which emulates the chip for QEMU and ends with it.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitStatus;

use crate::error::{Error, Result};
use crate::memory;
use crate::option::OptionValue;
use crate::process::{self, Launch, Process};

const PROGRAM: &str = "swtpm";

pub(crate) fn check() -> Result<()> {
    process::find(Path::new(PROGRAM))
        .map(drop)
        .ok_or(Error::TpmMissing)
}

/// A running TPM. It ends when QEMU closes the connection, and is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Tpm(Process);

impl Tpm {
    /// Starts one with nothing in it, and gives QEMU's end of the connection.
    ///
    /// Cancel safe: it is killed.
    pub(crate) async fn start() -> Result<(Self, OwnedFd)> {
        let failed = |what| move |source| Error::System { what, source };
        let (near, far) =
            std::os::unix::net::UnixStream::pair().map_err(failed("make a socket pair for the TPM"))?;
        // It lives in memory that has no name, and goes with the last process that has it.
        let state = memory::file(c"alpy-tpm").map_err(failed("make memory for the TPM"))?;
        let arguments = [
            "socket".to_owned(),
            "--tpm2".to_owned(),
            "--terminate".to_owned(),
            "--ctrl".to_owned(),
            format!("type=unixio,clientfd={}", far.as_raw_fd()),
            "--tpmstate".to_owned(),
            format!("backend-uri=file:///proc/self/fd/{}", state.as_raw_fd()),
        ];
        let process = Process::start(Launch {
            program: PROGRAM.into(),
            arguments: arguments.map(Into::into).to_vec(),
            descriptors: vec![far.into(), state.into()],
            evidence: None,
        });
        match process.await {
            Ok(process) => Ok((Self(process), near.into())),
            Err(Error::ProgramMissing { .. }) => Err(Error::TpmMissing),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Waits until it has ended, and gives the error if it has not ended as it should: because QEMU has.
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&self) -> Option<Error> {
        let status: ExitStatus = self.0.wait().await;
        (!status.success()).then(|| Error::TpmEnded {
            status,
            stderr: self.0.stderr_tail(),
            command_line: self.0.command_line().to_owned(),
        })
    }
}

/// The arguments for a QEMU that has the connection under this number.
pub(crate) fn arguments(descriptor: RawFd) -> [OsString; 6] {
    let connection = OptionValue::new("socket")
        .set("id", "tpm")
        .set("fd", descriptor.to_string());
    [
        "-chardev".into(),
        connection.into(),
        "-tpmdev".into(),
        "emulator,id=tpm0,chardev=tpm".into(),
        // Known to SeaBIOS, to OVMF, and to every system since 2005.
        "-device".into(),
        "tpm-tis,tpmdev=tpm0".into(),
    ]
}

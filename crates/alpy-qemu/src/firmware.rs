// SPDX-License-Identifier: GPL-3.0-or-later
//! Firmware.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::option::OptionValue;

/// What runs before the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Firmware {
    /// SeaBIOS, which comes with QEMU. The default.
    Bios,
    /// UEFI (OVMF). [`uefi`](Self::uefi) finds the distribution's.
    Uefi {
        /// The firmware's code; only read.
        code: PathBuf,
        /// Where the firmware's variables begin. The machine gets a copy that is gone with it.
        variables: PathBuf,
    },
}

/// Code and variables as distributions install them, the larger and newer build before the older one: Debian and Ubuntu,
/// Fedora, Arch.
const UEFI: [[&str; 2]; 5] = [
    [
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ],
    ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"],
    [
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ],
    [
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ],
    [
        "/usr/share/edk2-ovmf/x64/OVMF_CODE.fd",
        "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd",
    ],
];

impl Firmware {
    /// The UEFI firmware of this distribution.
    ///
    /// # Errors
    /// [`Error::FirmwareMissing`], which names the package.
    pub fn uefi() -> Result<Self> {
        Self::uefi_below(Path::new("/"))
    }

    fn uefi_below(root: &Path) -> Result<Self> {
        UEFI.iter()
            .map(|files| files.map(|file| root.join(&file[1..])))
            .find(|files| files.iter().all(|file| file.is_file()))
            .map(|[code, variables]| Self::Uefi { code, variables })
            .ok_or(Error::FirmwareMissing)
    }

    /// The files that it is made of.
    pub(crate) fn files(&self) -> Vec<&PathBuf> {
        match self {
            Self::Bios => Vec::new(),
            Self::Uefi { code, variables } => vec![code, variables],
        }
    }

    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let Self::Uefi { code, variables } = self else {
            return Vec::new();
        };
        let flash = |unit, path| {
            OptionValue::new("")
                .set("if", "pflash")
                .set("unit", unit)
                .set("format", "raw")
                .file(path)
        };
        vec![
            "-drive".into(),
            flash("0", code).set("readonly", "on").into(),
            "-drive".into(),
            flash("1", variables).set("snapshot", "on").into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_the_package_when_uefi_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let error = Firmware::uefi_below(root.path()).unwrap_err().to_string();
        assert!(error.contains("apt-get install ovmf"), "{error}");
    }

    #[test]
    fn takes_code_only_with_its_variables() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/share/OVMF");
        fs::create_dir_all(&folder).unwrap();
        for name in ["OVMF_CODE_4M.fd", "OVMF_CODE.fd", "OVMF_VARS.fd"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let expected = Firmware::Uefi {
            code: folder.join("OVMF_CODE.fd"),
            variables: folder.join("OVMF_VARS.fd"),
        };
        assert_eq!(Firmware::uefi_below(root.path()).unwrap(), expected);
    }
}

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
    /// UEFI (OVMF) that starts nothing but what is signed by somebody whom its variables name, on the machine type `q35`.
    /// [`secure_boot`](Self::secure_boot) finds the distribution's.
    ///
    /// QEMU lets the variables be written in the CPU's system management mode (SMM) alone, so that the guest cannot change them behind the
    /// firmware's back (edk2, OvmfPkg/README, `SMM_REQUIRE`).
    SecureBoot {
        /// The firmware's code, built for this; only read.
        code: PathBuf,
        /// Where the firmware's variables begin, with keys enrolled. The machine gets a copy that is gone with it.
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

/// The same for secure boot, with variables that have Microsoft's keys: Debian and Ubuntu, Fedora, openSUSE. Arch has none with keys.
const SECURE_BOOT: [[&str; 2]; 4] = [
    [
        "/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    ],
    [
        "/usr/share/OVMF/OVMF_CODE.ms.fd",
        "/usr/share/OVMF/OVMF_VARS.ms.fd",
    ],
    [
        "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd",
    ],
    [
        "/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin",
        "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin",
    ],
];

/// The first of these that is whole, in a folder that stands for the root.
fn first(pairs: &[[&str; 2]], root: &Path) -> Option<[PathBuf; 2]> {
    pairs
        .iter()
        .map(|files| files.map(|file| root.join(&file[1..])))
        .find(|files| files.iter().all(|file| file.is_file()))
}

impl Firmware {
    /// The UEFI firmware of this distribution.
    ///
    /// # Errors
    /// [`Error::FirmwareMissing`], which names the package.
    pub fn uefi() -> Result<Self> {
        Self::uefi_below(Path::new("/"))
    }

    fn uefi_below(root: &Path) -> Result<Self> {
        let [code, variables] = first(&UEFI, root).ok_or(Error::FirmwareMissing)?;
        Ok(Self::Uefi { code, variables })
    }

    /// The UEFI firmware of this distribution that does secure boot, and trusts what Microsoft has signed, as PCs do from the shop.
    ///
    /// # Errors
    /// [`Error::SecureBootMissing`], which names the package.
    pub fn secure_boot() -> Result<Self> {
        Self::secure_boot_below(Path::new("/"))
    }

    fn secure_boot_below(root: &Path) -> Result<Self> {
        let [code, variables] = first(&SECURE_BOOT, root).ok_or(Error::SecureBootMissing)?;
        Ok(Self::SecureBoot { code, variables })
    }

    /// The machine type that it runs on, from the one that was asked for.
    pub(crate) fn machine_type(&self, asked: &str) -> String {
        match self {
            Self::SecureBoot { .. } if !asked.contains("smm=") => format!("{asked},smm=on"),
            _ => asked.to_owned(),
        }
    }

    pub(crate) fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Bios => Vec::new(),
            Self::Uefi { code, variables } | Self::SecureBoot { code, variables } => vec![code, variables],
        }
    }

    /// The files that it is made of.
    pub(crate) fn files(&self) -> Vec<&PathBuf> {
        match self {
            Self::Bios => Vec::new(),
            Self::Uefi { code, variables } | Self::SecureBoot { code, variables } => vec![code, variables],
        }
    }

    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let (code, variables, secure) = match self {
            Self::Bios => return Vec::new(),
            Self::Uefi { code, variables } => (code, variables, false),
            Self::SecureBoot { code, variables } => (code, variables, true),
        };
        let flash = |unit, path| {
            OptionValue::new("")
                .set("if", "pflash")
                .set("unit", unit)
                .set("format", "raw")
                .file(path)
        };
        let mut arguments = Vec::new();
        if secure {
            arguments.extend(["-global", "driver=cfi.pflash01,property=secure,value=on"].map(OsString::from));
        }
        arguments.extend([
            "-drive".into(),
            flash("0", code).set("readonly", "on").into(),
            "-drive".into(),
            flash("1", variables).set("snapshot", "on").into(),
        ]);
        arguments
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
        let error = Firmware::secure_boot_below(root.path()).unwrap_err().to_string();
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

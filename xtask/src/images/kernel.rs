// SPDX-License-Identifier: GPL-3.0-or-later
//! Kernels unpacked, so that QEMU starts them at once: without hardware virtualisation, a kernel that unpacks itself takes as long to
//! do that as to boot.

use std::path::Path;

use anyhow::{Context, Result};

use super::elf;
use crate::process::{Kind, command, output};

/// Offsets in a bzImage, by Documentation/arch/x86/boot.rst of the kernel.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const SECTOR: usize = 512;

/// How a payload begins, what unpacks it, and how many bytes there are behind it: its size once more, unless the format has that.
const FORMATS: &[(&[u8], &[&str], usize)] = &[
    (b"\xfd7zXZ\0", &["xz", "--decompress", "--stdout"], 4),
    (
        b"\x28\xb5\x2f\xfd",
        &["zstd", "--quiet", "--decompress", "--stdout"],
        4,
    ),
    (b"\x1f\x8b", &["gzip", "--decompress", "--stdout"], 0),
];

/// The kernel inside a bzImage, if QEMU can start it as it is: unpacked by a program that is at hand, and with an entry for PVH.
/// `folder` is for what is needed in between.
pub fn unpacked(image: &[u8], folder: &Path) -> Result<Option<Vec<u8>>> {
    let Some(payload) = payload(image) else {
        return Ok(None);
    };
    let format = FORMATS.iter().find(|(magic, ..)| payload.starts_with(magic));
    let Some((_, unpack, behind)) = format else {
        return Ok(None);
    };
    let (packed, kernel) = (folder.join("payload"), folder.join("kernel-unpacked"));
    std::fs::write(&packed, &payload[..payload.len() - behind])?;
    let mut shell = command("sh");
    shell.args([
        "-c",
        "out=$1 in=$2; shift 2; exec \"$@\" < \"$in\" > \"$out\"",
        "sh",
    ]);
    shell.args([&kernel, &packed]).args(*unpack);
    output(shell, Kind::Group)?.success("unpack the kernel")?;
    let bytes = std::fs::read(&kernel).context("read the unpacked kernel")?;
    std::fs::remove_file(packed)?;
    std::fs::remove_file(kernel)?;
    Ok(elf::has_pvh_entry(&bytes).then_some(bytes))
}

/// The compressed kernel in a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let number = |at| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let start = (usize::from(image[SETUP_SECTORS]) + 1) * SECTOR + number(PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(number(PAYLOAD_LENGTH)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of one sector of setup and this payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image
    }

    fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let [plain, packed] = ["plain", "packed"].map(|name| folder.path().join(name));
        std::fs::write(&plain, bytes).unwrap();
        let mut shell = command("sh");
        shell.args(["-c", "\"$0\" < \"$1\" > \"$2\"", program]);
        shell.args([&plain, &packed]);
        output(shell, Kind::Group).unwrap().success(program).unwrap();
        std::fs::read(packed).unwrap()
    }

    #[test]
    fn a_kernel_with_an_entry_for_pvh_comes_out_of_each_format() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = elf::tests::with_note(18);
        for (program, size) in [("xz", 4), ("zstd", 4), ("gzip", 0)] {
            let payload = [packed(program, &kernel), vec![0x55; size]].concat();
            let found = unpacked(&image(&payload), folder.path()).unwrap();
            assert_eq!(found.as_ref(), Some(&kernel), "{program}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_kernels_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let without_entry = packed("gzip", &elf::tests::with_note(7));
        for image in [image(&without_entry), image(b"unknown"), b"MZ".to_vec()] {
            assert_eq!(unpacked(&image, folder.path()).unwrap(), None);
        }
    }
}

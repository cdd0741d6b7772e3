// SPDX-License-Identifier: GPL-3.0-or-later
//! What executables, libraries and kernel modules say about themselves.

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, PT_INTERP};
use elf::endian::AnyEndian;

/// What a program or a library must have to be run: absolute path of the loader, file names of libraries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The loader; a library has none.
    pub loader: Option<String>,
    /// Libraries, as the loader searches for them.
    pub libraries: Vec<String>,
}

/// Whether these are the bytes of an ELF file.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&elf::abi::ELFMAGIC)
}

/// Reads what a program or a library needs. elf(5) has the format.
pub fn needs(bytes: &[u8]) -> Result<Needs> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let mut needs = Needs::default();
    for segment in file.segments().into_iter().flatten() {
        if segment.p_type == PT_INTERP {
            let path = file.segment_data(&segment)?;
            needs.loader = Some(String::from_utf8_lossy(path).trim_end_matches('\0').to_owned());
        }
    }
    let data = file.find_common_data()?;
    if let (Some(dynamic), Some(strings)) = (data.dynamic, data.dynsyms_strs) {
        for entry in dynamic.iter().filter(|entry| entry.d_tag == DT_NEEDED) {
            needs
                .libraries
                .push(strings.get(usize::try_from(entry.d_val())?)?.to_owned());
        }
    }
    Ok(needs)
}

/// Reads the `key=value` pairs that a kernel module carries, such as `depends` and `alias`.
pub fn module_info(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let section = file
        .section_header_by_name(".modinfo")?
        .context("not a kernel module")?;
    let (data, _) = file.section_data(&section)?;
    let pairs = data.split(|byte| *byte == 0).filter_map(|pair| {
        let (key, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_a_loader_and_libc() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&bytes).unwrap();
        assert!(needs.loader.unwrap().starts_with("/lib"));
        assert!(
            needs.libraries.iter().any(|library| library.starts_with("libc.")),
            "{:?}",
            needs.libraries
        );
    }

    #[test]
    fn other_files_are_refused() {
        assert!(!is_elf(b"#!/bin/sh\n"));
        assert!(needs(b"#!/bin/sh\n").is_err());
        assert!(module_info(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).is_err());
    }
}

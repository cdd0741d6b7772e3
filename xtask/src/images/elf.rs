// SPDX-License-Identifier: GPL-3.0-or-later
//! What executables, libraries and kernel modules say about themselves.

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, PT_INTERP, PT_NOTE};
use elf::endian::AnyEndian;

/// What a program or a library must have to be run: absolute path of the loader, file names of libraries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The loader; a library has none.
    pub loader: Option<String>,
    /// Libraries, as the loader searches for them.
    pub libraries: Vec<String>,
    /// Libraries that the C library opens by itself when functions run that are imported here.
    pub opened: Vec<String>,
    /// Folders in which the loader looks for them before others, each an absolute path.
    pub folders: Vec<String>,
}

/// Libraries that glibc itself opens at run time, which no ELF header names, and the functions that do so: to unwind the stack, in
/// glibc's sysdeps/nptl/unwind-forcedunwind.c and debug/backtrace.c. glibc aborts the process where the library is missing.
const OPENED: &[(&str, &[&str])] = &[(
    "libgcc_s.so.1",
    &["backtrace", "pthread_cancel", "pthread_exit", "thrd_exit"],
)];

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
        for entry in dynamic.iter() {
            let text = || Ok::<_, anyhow::Error>(strings.get(usize::try_from(entry.d_val())?)?);
            match entry.d_tag {
                DT_NEEDED => needs.libraries.push(text()?.to_owned()),
                DT_RPATH | DT_RUNPATH => needs.folders.extend(text()?.split(':').map(ToOwned::to_owned)),
                _ => {}
            }
        }
    }
    if let (Some(symbols), Some(strings)) = (data.dynsyms, data.dynsyms_strs) {
        let imported = |name: &str| {
            let mut undefined = symbols.iter().filter(elf::symbol::Symbol::is_undefined);
            undefined.any(|symbol| {
                let found = usize::try_from(symbol.st_name).ok().map(|at| strings.get(at));
                matches!(found, Some(Ok(found)) if found == name)
            })
        };
        let opened = OPENED
            .iter()
            .filter(|(_, functions)| functions.iter().any(|name| imported(name)));
        needs.opened = opened.map(|(library, _)| (*library).to_owned()).collect();
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

/// Whether a kernel has the entry by which QEMU starts it without a boot loader: the note `XEN_ELFNOTE_PHYS32_ENTRY`, by the kernel's
/// include/xen/interface/elfnote.h.
pub fn has_pvh_entry(bytes: &[u8]) -> bool {
    /// Length of the name; the length of the value comes between it and the number of the note.
    const NAME: [u8; 4] = 4_u32.to_le_bytes();
    const PHYS32_ENTRY: &[u8] = b"\x12\0\0\0Xen\0";
    let Ok(file) = ElfBytes::<AnyEndian>::minimal_parse(bytes) else {
        return false;
    };
    let segments = file.segments().into_iter().flatten();
    segments
        .filter(|segment| segment.p_type == PT_NOTE)
        .filter_map(|segment| file.segment_data(&segment).ok())
        .any(|notes| {
            let mut windows = notes.windows(16);
            windows.any(|note| note[..4] == NAME && note[8..] == *PHYS32_ENTRY)
        })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An ELF file with a note of Xen's that has this number.
    pub fn with_note(number: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        // An executable for x86-64 with one program header, right behind.
        for (at, value) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1)] {
            file[at] = value;
        }
        // Its segment: notes, of 20 bytes, behind the headers.
        for (at, value) in [(0, 4), (8, 120), (32, 20), (40, 20), (48, 4)] {
            file[64 + at] = value;
        }
        let words = [4, 4, number, u32::from_le_bytes(*b"Xen\0"), 0x0010_0000];
        file.extend(words.map(u32::to_le_bytes).concat());
        file
    }

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
        needs(b"#!/bin/sh\n").unwrap_err();
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = module_info(&program).unwrap_err();
        assert_eq!(error.to_string(), "not a kernel module");
    }

    #[test]
    fn the_entry_for_pvh_is_a_note_of_its_own_number() {
        assert!(has_pvh_entry(&with_note(18)));
        assert!(!has_pvh_entry(&with_note(7)));
        assert!(!has_pvh_entry(b"MZ"));
    }
}

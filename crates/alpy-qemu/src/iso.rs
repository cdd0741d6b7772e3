// SPDX-License-Identifier: GPL-3.0-or-later
//! A small ISO 9660 file system: one folder, whose files have their names in Rock Ridge and in Joliet.
//!
//! The structures are those of ECMA-119 (the sections are named below), of the Rock Ridge Interchange Protocol 1.12 and of the Joliet
//! specification.

const SECTOR: usize = 2048;

/// Where what is: the system area before is of nobody.
const VOLUME: usize = 16;
const VOLUME_JOLIET: usize = 17;
const END: usize = 18;
const PATHS: usize = 19;
const PATHS_JOLIET: usize = 21;
const FOLDER: usize = 23;
const FOLDER_JOLIET: usize = 24;
const FILES: usize = 25;

/// Of a folder with nothing but itself in its table of paths.
const PATHS_LENGTH: u32 = 10;

/// The first of January 2000, 0 o'clock: the same content shall make the same bytes.
const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];

/// A file.
pub(crate) struct Entry<'a> {
    /// For who knows nothing but ISO 9660: capital letters, a dot, and `;1`.
    pub(crate) short: &'a str,
    pub(crate) name: &'a str,
    pub(crate) content: &'a [u8],
}

/// The file system. The files come in the order of both of their names, are few, and their names are short and in ASCII: a folder is one sector.
pub(crate) fn image(label: &str, files: &[Entry<'_>]) -> Vec<u8> {
    let mut sectors = FILES;
    let places: Vec<usize> = files
        .iter()
        .map(|file| {
            let place = sectors;
            sectors += file.content.len().div_ceil(SECTOR);
            place
        })
        .collect();
    // To a BIOS, a disk that is smaller than a cylinder is none.
    sectors = sectors.next_multiple_of((1 << 20) / SECTOR);
    let mut image = vec![0; sectors * SECTOR];
    let mut write = |sector: usize, bytes: &[u8]| {
        image[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
    };
    for (joliet, volume, paths, folder) in [
        (false, VOLUME, PATHS, FOLDER),
        (true, VOLUME_JOLIET, PATHS_JOLIET, FOLDER_JOLIET),
    ] {
        write(volume, &descriptor(label, joliet, sectors, paths, folder));
        // 6.9: the folder itself, its own parent, with the numbers in both orders of bytes.
        let place = number(folder);
        let mut path = vec![1, 0];
        path.extend(place.to_le_bytes());
        path.extend([1, 0, 0, 0]);
        write(paths, &path);
        let mut path = vec![1, 0];
        path.extend(place.to_be_bytes());
        path.extend([0, 1, 0, 0]);
        write(paths + 1, &path);

        let mut records = Vec::new();
        for name in [0, 1] {
            let mut extension = Vec::new();
            if !joliet && name == 0 {
                // SUSP 5.3: there are extensions.
                extension.extend(b"SP\x07\x01\xbe\xef\x00");
            }
            if !joliet {
                extension.extend(attributes(0o040_555, 2));
            }
            if !joliet && name == 0 {
                // SUSP 5.5: and they are those of Rock Ridge.
                extension.extend(b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A");
            }
            records.extend(record(&[name], folder, SECTOR, true, &extension));
        }
        for (file, &place) in files.iter().zip(&places) {
            let length = file.content.len();
            let record = if joliet {
                record(&utf16(file.name), place, length, false, &[])
            } else {
                let mut extension = attributes(0o100_444, 1);
                // Rock Ridge 4.1.4: the whole name.
                let length_of_field = u8::try_from(5 + file.name.len()).expect("a name is short");
                extension.extend([b'N', b'M', length_of_field, 1, 0]);
                extension.extend(file.name.as_bytes());
                record(file.short.as_bytes(), place, length, false, &extension)
            };
            records.extend(record);
        }
        assert!(records.len() <= SECTOR, "a folder is one sector");
        write(folder, &records);
    }
    write(END, b"\xffCD001\x01");
    for (file, &place) in files.iter().zip(&places) {
        write(place, file.content);
    }
    image
}

/// A volume descriptor (8.4), for Joliet a supplementary one (8.5).
fn descriptor(label: &str, joliet: bool, sectors: usize, paths: usize, folder: usize) -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    let mut write = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    let text = |length: usize, text: &str| {
        let mut bytes = if joliet { utf16(text) } else { text.into() };
        while bytes.len() < length {
            bytes.extend(if joliet { &b"\0 "[..] } else { b" " });
        }
        bytes.truncate(length);
        bytes
    };
    write(
        0,
        if joliet {
            b"\x02CD001\x01"
        } else {
            b"\x01CD001\x01"
        },
    );
    write(8, &text(32, ""));
    write(40, &text(32, label));
    write(80, &both(number(sectors)));
    if joliet {
        // The level of the character set, 3.
        write(88, b"%/E");
    }
    write(120, &both_short(1));
    write(124, &both_short(1));
    write(128, &both_short(2048));
    write(132, &both(PATHS_LENGTH));
    write(140, &number(paths).to_le_bytes());
    write(148, &number(paths + 1).to_be_bytes());
    write(156, &record(&[0], folder, SECTOR, true, &[]));
    write(190, &text(623, ""));
    for at in [813, 830, 847, 864] {
        // No date.
        write(at, b"0000000000000000");
    }
    write(881, &[1]);
    sector
}

/// A directory record (9.1).
fn record(name: &[u8], place: usize, length: usize, folder: bool, extension: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(number(place)));
    record.extend(both(number(length)));
    record.extend(DATE);
    record.extend([if folder { 2 } else { 0 }, 0, 0]);
    record.extend(both_short(1));
    record.push(u8::try_from(name.len()).expect("a name is short"));
    record.extend(name);
    let pad = |record: &mut Vec<u8>| record.resize(record.len().next_multiple_of(2), 0);
    pad(&mut record);
    record.extend(extension);
    pad(&mut record);
    record[0] = u8::try_from(record.len()).expect("a name is short");
    record
}

/// Mode, links, user and group (Rock Ridge 4.1.1).
fn attributes(mode: u32, links: u32) -> Vec<u8> {
    let mut field = b"PX\x24\x01".to_vec();
    for value in [mode, links, 0, 0] {
        field.extend(both(value));
    }
    field
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A number in both orders of bytes (7.3.3).
fn both(value: u32) -> [u8; 8] {
    let [a, b, c, d] = value.to_le_bytes();
    [a, b, c, d, d, c, b, a]
}

fn both_short(value: u16) -> [u8; 4] {
    let [a, b] = value.to_le_bytes();
    [a, b, b, a]
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("a small file system")
}

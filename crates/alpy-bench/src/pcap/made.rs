// SPDX-License-Identifier: GPL-3.0-or-later
//! A capture made up: TCP, UDP and ARP in frames of many lengths.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;

/// The port that some packets go to.
pub(crate) const PORT: u16 = 5201;

/// Header of a file in this machine's byte order: microseconds, version 2.4, Ethernet.
fn file_header() -> Vec<u8> {
    let mut header = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    header.extend(2_u16.to_le_bytes());
    header.extend(4_u16.to_le_bytes());
    header.extend([0; 8]);
    header.extend(65536_u32.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header
}

/// Header of the record of a frame of this length.
fn record_header(number: usize, length: usize) -> [u8; 16] {
    let mut header = [0; 16];
    let (seconds, microseconds) = (number / 100_000, number % 100_000 * 10);
    for (field, value) in header
        .chunks_exact_mut(4)
        .zip([seconds, microseconds, length, length])
    {
        field.copy_from_slice(&(value as u32).to_le_bytes());
    }
    header
}

/// What is in it.
pub(crate) struct Made {
    pub(crate) megabytes: usize,
    pub(crate) packets: usize,
    pub(crate) to_port: usize,
}

/// Writes it.
pub(crate) fn write(path: &Path, megabytes: usize) -> Result<Made> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&file_header())?;
    let mut made = Made {
        megabytes,
        packets: 0,
        to_port: 0,
    };
    let mut frame = Vec::with_capacity(1514);
    let (mut written, mut random) = (24, 1_u32);
    while written < megabytes * 1_000_000 {
        // Numerical Recipes' generator: good enough to make lengths of.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let draw = (random >> 16) as usize;
        let payload = if draw % 4 == 0 {
            1000 + draw % 400
        } else {
            draw % 200
        };
        let port = if draw % 3 == 0 {
            PORT
        } else {
            1024 + (draw % 1000) as u16
        };
        frame.clear();
        match draw % 20 {
            0 => arp(&mut frame),
            1..=7 => transport(&mut frame, 17, port, payload),
            _ => transport(&mut frame, 6, port, payload),
        }
        made.packets += 1;
        made.to_port += usize::from(draw % 20 != 0 && port == PORT);
        file.write_all(&record_header(made.packets, frame.len()))?;
        file.write_all(&frame)?;
        written += 16 + frame.len();
    }
    file.into_inner()?;
    Ok(made)
}

fn ethernet(frame: &mut Vec<u8>, kind: u16) {
    frame.extend([0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1]);
    frame.extend(kind.to_be_bytes());
}

fn arp(frame: &mut Vec<u8>) {
    ethernet(frame, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.resize(42, 0);
}

fn transport(frame: &mut Vec<u8>, protocol: u8, port: u16, payload: usize) {
    let header: usize = if protocol == 6 { 20 } else { 8 };
    ethernet(frame, 0x0800);
    frame.extend([0x45, 0]);
    frame.extend(((20 + header + payload) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 168, 0, 1, 192, 168, 1, 1]);
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    if protocol == 6 {
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        frame.extend(((header + payload) as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.resize(frame.len() + payload, 0x61);
}

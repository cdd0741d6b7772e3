// SPDX-License-Identifier: GPL-3.0-or-later
//! QEMU machines: command line, process supervision, accelerator.

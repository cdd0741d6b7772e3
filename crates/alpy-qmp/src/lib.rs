// SPDX-License-Identifier: GPL-3.0-or-later
//! Asynchronous client of the QEMU Machine Protocol.

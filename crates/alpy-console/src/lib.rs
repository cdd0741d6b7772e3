// SPDX-License-Identifier: GPL-3.0-or-later
//! Serial console of a machine: expect, send, transcript, remote shell.

// SPDX-License-Identifier: GPL-3.0-or-later
//! The sample appliance of the alpy project: a small Linux router.

// SPDX-License-Identifier: GPL-3.0-or-later
//! Where a test panicked: who catches a panic is not told.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

thread_local! {
    /// The place of the last panic on this thread.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Has the places of all panics from now on remembered. The hook that is there is called as before.
pub(crate) fn remember_places() {
    static ONCE: Once = Once::new();
    // A thread that panics must not touch the hook.
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PLACE.set(info.location().map(ToString::to_string));
            hook(info);
        }));
    });
    PLACE.set(None);
}

/// The file, line and column of the last panic on this thread.
pub(crate) fn place() -> Option<String> {
    PLACE.take()
}

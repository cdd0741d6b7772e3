// SPDX-License-Identifier: GPL-3.0-or-later
//! A list that grows while it is lent.

use std::sync::OnceLock;

/// A list whose items stay where they are: somebody may hold one while another is added.
#[derive(Debug)]
pub(crate) struct Growing<T>(OnceLock<Box<(T, Growing<T>)>>);

impl<T> Growing<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn push(&self, item: T) {
        let mut end = self;
        while let Some((_, rest)) = end.0.get().map(Box::as_ref) {
            end = rest;
        }
        if let Err(item) = end.0.set(Box::new((item, Self::new()))) {
            // Another one was faster.
            end.push(item.0);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let (item, next) = rest.0.get()?.as_ref();
            rest = next;
            Some(item)
        })
    }
}

impl<T> FromIterator<T> for Growing<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let all = Self::new();
        let mut end = &all;
        for item in items {
            end = &end.0.get_or_init(|| Box::new((item, Self::new()))).1;
        }
        all
    }
}

impl<T> IntoIterator for Growing<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        let mut items = Vec::new();
        let mut rest = self;
        while let Some(item) = rest.0.into_inner() {
            items.push(item.0);
            rest = item.1;
        }
        items.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_may_be_held_while_others_are_added() {
        let list: Growing<_> = (0..3).collect();
        let first = list.iter().next().unwrap();
        std::thread::scope(|scope| {
            for add in 3..11 {
                let list = &list;
                scope.spawn(move || list.push(add));
            }
        });
        assert_eq!(*first, 0);
        let mut all: Vec<_> = list.into_iter().collect();
        assert_eq!(all[..3], [0, 1, 2]);
        all.sort();
        assert_eq!(all, (0..11).collect::<Vec<_>>());
    }
}

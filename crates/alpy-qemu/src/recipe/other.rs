// SPDX-License-Identifier: GPL-3.0-or-later
//! A step of a recipe that somebody else knows.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::content::Checksum;

/// A step of a [`Recipe`](crate::Recipe) that is a value of another crate, which knows how to take it. What is known of it here is which one it
/// is: two are the same if their names are and their values have the same hash.
#[derive(Clone)]
pub struct OtherStep {
    name: String,
    content: Checksum,
    value: Arc<dyn Any + Send + Sync>,
}

impl OtherStep {
    pub(super) fn new(name: String, value: impl Hash + Any + Send + Sync) -> Self {
        let mut bytes = Bytes::default();
        value.hash(&mut bytes);
        Self {
            name,
            content: Checksum::of(&bytes.0),
            value: Arc::new(value),
        }
    }

    /// What it is called in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value, for whoever knows its type.
    pub fn value<T: Any>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }
}

/// The value may have a secret in it, and shapes a state's key by its checksum alone.
impl fmt::Debug for OtherStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.name, self.content)
    }
}

impl PartialEq for OtherStep {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.content) == (&other.name, other.content)
    }
}

impl Eq for OtherStep {}

impl Hash for OtherStep {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, self.content).hash(state);
    }
}

/// What a value hashes, so that it is more than 64 bits. It is the same in each process, which is all that the key of a state needs: of
/// another compiler it may be another one, and the state is built anew.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use crate::{Machine, Recipe, RecipeStep};

    fn recipe(value: &str) -> Recipe {
        Recipe::new("r").other("knock", value.to_owned())
    }

    #[test]
    fn is_told_from_another_one_by_its_value() {
        assert_eq!(recipe("three times"), recipe("three times"));
        assert_ne!(recipe("three times"), recipe("twice"));
        // The text of a recipe is a part of the key of a state.
        let shape = |value| format!("{:?}", Machine::new().saved_state(recipe(value)));
        assert_eq!(shape("three times"), shape("three times"));
        assert_ne!(shape("three times"), shape("twice"));
        assert!(
            !shape("three times").contains("three"),
            "{}",
            shape("three times")
        );
    }

    #[test]
    fn gives_its_value_to_whoever_knows_it() {
        let recipe = recipe("twice");
        let [RecipeStep::Other(step)] = recipe.steps() else {
            panic!("one such step: {recipe:?}");
        };
        assert_eq!(step.value::<String>().unwrap(), "twice");
        assert_eq!(step.value::<u32>(), None);
    }
}

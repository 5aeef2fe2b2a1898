//! Identifiers. Each is its own type, so that they cannot be swapped.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Issued by the controller, one per set of pods; 1 when embedded.
    Attempt(u64)
);
number!(
    /// Claimed in the checkpoint store by a coordinator at every start and recovery. It alone fences.
    Generation(u64)
);
number!(
    /// Numbers checkpoints of a job, from 1.
    Epoch(u64)
);
number!(
    /// Given to a worker at registration, new in every generation of the coordinator process.
    WorkerId(u32)
);
number!(
    /// One of the parallel instances of an operator, from 0.
    Subtask(u32)
);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Epoch(self.0 + 1)
    }
}

/// Identifies a job for ever; a job deleted and made again under its name has another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobUid(pub String);

impl fmt::Display for JobUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A generation that has led a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    pub generation: Generation,
    /// How many subtasks of each operator it may have started; 0 if it is not known.
    pub parallelism: u32,
}

//! How errors are shown: the whole chain of causes in one line.

use std::error::Error;

/// An error and its causes, separated by colons, without repeating a cause that its parent already shows.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

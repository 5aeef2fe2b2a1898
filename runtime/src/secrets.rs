//! Passwords and keys of table options: `${secret:name}` stands for them in SQL, and their values are in no plan, log or state.

use std::io;
use std::path::PathBuf;

use snafu::{OptionExt, ResultExt, Snafu};

/// Names the folder where the values of `spec.pipeline.secrets` are mounted, a file each; the controller sets it.
pub const FOLDER_VARIABLE: &str = "MILLRACE_SECRETS";

/// Where values come from.
#[derive(Debug, Clone, Default)]
pub enum Secrets {
    /// Options are only looked at: what stands for a value stays as it is.
    #[default]
    Unread,
    /// A file each; read anew whenever a connector is opened, so that a corrected or rotated value is found.
    Folder(PathBuf),
    /// A variable each, see [`variable`].
    Environment,
}

/// A value cannot be read.
#[derive(Debug, Snafu)]
pub enum SecretError {
    #[snafu(display("the secret '{name}' is not set or empty; set the variable {variable}"))]
    NotSet { name: String, variable: String },
    #[snafu(display(
        "the secret '{name}' cannot be read from '{}'; make the Secret that spec.pipeline.secrets names for it, with its key",
        file.display()
    ))]
    NotMounted { name: String, file: PathBuf, source: io::Error },
}

/// The variable that has a secret's value outside of a cluster.
pub fn variable(name: &str) -> String {
    format!("MILLRACE_SECRET_{}", name.to_ascii_uppercase().replace('-', "_"))
}

impl Secrets {
    /// The mounted folder if there is one, else the environment.
    pub fn of_process() -> Self {
        match std::env::var_os(FOLDER_VARIABLE) {
            Some(folder) => Secrets::Folder(folder.into()),
            None => Secrets::Environment,
        }
    }

    /// A text with the values of the secrets that it names.
    ///
    /// # Errors
    /// If one is not there.
    pub fn fill(&self, text: &str) -> Result<String, SecretError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, name, after)) = millrace_sql::secrets::next(rest) {
            filled.push_str(before);
            match self.value(name)? {
                Some(value) => filled.push_str(&value),
                None => filled.push_str(&rest[before.len()..rest.len() - after.len()]),
            }
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn value(&self, name: &str) -> Result<Option<String>, SecretError> {
        match self {
            Secrets::Unread => Ok(None),
            Secrets::Folder(folder) => {
                let file = folder.join(name);
                let value = std::fs::read_to_string(&file).context(NotMountedSnafu { name, file })?;
                // Files that were written by hand end with a line break.
                Ok(Some(value.strip_suffix('\n').unwrap_or(&value).to_owned()))
            }
            Secrets::Environment => {
                let variable = variable(name);
                let value = std::env::var(&variable).ok().filter(|value| !value.is_empty());
                value.context(NotSetSnafu { name, variable }).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_place_of_names() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("user"), "ann").unwrap();
        std::fs::write(folder.path().join("kafka-password"), "${secret:user}\n").unwrap();
        let mounted = Secrets::Folder(folder.path().to_owned());

        let text = "username=\"${secret:user}\" password=\"${secret:kafka-password}\";";
        assert_eq!(mounted.fill(text).unwrap(), "username=\"ann\" password=\"${secret:user}\";");
        assert_eq!(Secrets::Unread.fill(text).unwrap(), text);
        assert_eq!(mounted.fill("plain").unwrap(), "plain");
        let missing = mounted.fill("${secret:other}").unwrap_err().to_string();
        assert!(missing.contains("the secret 'other' cannot be read from '"), "{missing}");
        let missing = Secrets::Environment.fill("${secret:no-such}").unwrap_err().to_string();
        assert_eq!(
            missing,
            "the secret 'no-such' is not set or empty; set the variable MILLRACE_SECRET_NO_SUCH"
        );
    }
}

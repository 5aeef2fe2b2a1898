//! Folders of the machine.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The local path of an address; `None` for other schemes.
pub fn local_path(address: &str) -> Option<PathBuf> {
    match address.split_once("://") {
        Some(("file", path)) => Some(PathBuf::from(path)),
        Some(_) => None,
        None => Some(PathBuf::from(address.strip_prefix("file:").unwrap_or(address))),
    }
}

/// An error of the machine's files, with what to do about those that a user causes.
pub fn with_cure(error: io::Error) -> io::Error {
    let cure = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room, and the job goes on",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "give this user the right to use it, or name another place"
        }
        ErrorKind::NotFound => "put it there, or correct the option 'path'",
        ErrorKind::NotADirectory => {
            "there is a file where a folder should be; remove it, or correct the option 'path'"
        }
        // Too many open files, in this process or on the machine.
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            "raise the limit of open files (ulimit -n)"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {cure}"))
}

/// Makes new, removed and renamed names in a folder durable.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A part of a path with what has a meaning in paths as `%XX`, as in Hive.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\0'..='\u{1f}'
            | '\u{7f}'
            | '"'
            | '#'
            | '%'
            | '\''
            | '*'
            | '/'
            | ':'
            | '='
            | '?'
            | '\\'
            | '{'
            | '['
            | ']'
            | '^' => out.push_str(&format!("%{:02X}", character as u32)),
            character => out.push(character),
        }
    }
    // Neither of these is a folder.
    match out.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => out,
    }
}

/// What [`escaped`] has made this of.
pub fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_a_user_causes_name_their_cure() {
        let cases = [
            (libc::ENOSPC, "make room"),
            (libc::EACCES, "the right to use it"),
            (libc::ENOENT, "correct the option 'path'"),
            (libc::ENOTDIR, "there is a file where a folder should be"),
            (libc::EMFILE, "ulimit"),
        ];
        for (number, cure) in cases {
            let error = io::Error::from_raw_os_error(number);
            let (kind, said) = (error.kind(), error.to_string());

            let cured = with_cure(error);

            assert_eq!(cured.kind(), kind);
            assert!(cured.to_string().starts_with(&said) && cured.to_string().contains(cure), "{cured}");
        }
    }

    #[test]
    fn what_has_a_meaning_in_paths_is_escaped() {
        for (text, expected) in [
            ("2024-02-29", "2024-02-29"),
            ("a/b=c", "a%2Fb%3Dc"),
            ("10:30", "10%3A30"),
            ("..", "%2E%2E"),
            ("ünï code", "ünï code"),
            ("50%\n", "50%25%0A"),
        ] {
            assert_eq!(escaped(text), expected);
            assert_eq!(unescaped(expected), text);
        }
    }
}

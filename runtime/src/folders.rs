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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_a_user_causes_name_their_cure() {
        let cases = [
            (libc::ENOSPC, "make room"),
            (libc::EACCES, "the right to use it"),
            (libc::ENOENT, "correct the option 'path'"),
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
}

//! Folders of the machine.

use std::fs::File;
use std::path::{Path, PathBuf};

/// The local path of an address; `None` for other schemes.
pub fn local_path(address: &str) -> Option<PathBuf> {
    match address.split_once("://") {
        Some(("file", path)) => Some(PathBuf::from(path)),
        Some(_) => None,
        None => Some(PathBuf::from(address.strip_prefix("file:").unwrap_or(address))),
    }
}

/// Makes new, removed and renamed names in a folder durable.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

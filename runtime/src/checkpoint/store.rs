//! The few things that the protocol needs of a store, and a folder that can do them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use snafu::Snafu;

use crate::folders::{sync_folder, with_cure};

/// A store could not do what was asked.
#[derive(Debug, Snafu, Clone)]
#[snafu(display("failed to {action}: {reason}"))]
pub struct StoreError {
    pub action: String,
    pub reason: String,
}

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is ours and durable.
    Yes,
    /// Another object, or ours from a try whose answer was lost, is there.
    Exists,
    /// The store has no such request.
    Unsupported,
}

/// Objects by key. Listing after creating shows what was created.
#[async_trait]
pub trait Store: Send + Sync {
    /// Creates an object unless the key exists. The object is durable when this returns.
    async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError>;

    /// Reads an object; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Reads a part of an object, less where the object ends before; `None` if there is no such object.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let part = |bytes: Vec<u8>| {
            let end = bytes.len().min(range.end as usize);
            bytes[end.min(range.start as usize)..end].to_vec()
        };
        Ok(self.get(key).await?.map(part))
    }

    /// Keys under a prefix, sorted.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Removes objects; one that is not there counts as removed.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Where this is, for messages.
    fn location(&self) -> String;
}

/// The part of a store below a prefix.
pub struct Below {
    store: Arc<dyn Store>,
    /// Ends with a slash.
    prefix: String,
}

impl Below {
    pub fn new(store: Arc<dyn Store>, folder: String) -> Self {
        Below { store, prefix: format!("{folder}/") }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[async_trait]
impl Store for Below {
    async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        self.store.create(&self.key(key), bytes).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&self.key(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get_range(&self.key(key), range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let keys = self.store.list(&self.key(prefix)).await?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(&self.prefix)).map(str::to_owned).collect())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let keys: Vec<String> = keys.iter().map(|key| self.key(key)).collect();
        self.store.delete(&keys).await
    }

    fn location(&self) -> String {
        format!("{}/{}", self.store.location().trim_end_matches('/'), self.prefix.trim_end_matches('/'))
    }
}

/// A folder of the machine.
#[derive(Debug, Clone)]
pub struct FolderStore {
    root: PathBuf,
    temporary: Arc<AtomicU64>,
}

impl FolderStore {
    /// A store in this folder, which is made when the first object is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        FolderStore { root: root.into(), temporary: Arc::default() }
    }

    fn create_sync(&self, key: &str, bytes: &[u8]) -> io::Result<Created> {
        let path = self.root.join(key);
        let folder = path.parent().unwrap_or(&self.root);
        create_folders(folder)?;
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".tmp-{}-{number}", std::process::id()));
        let mut file = File::create(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        // A link is atomic and fails if the name exists; a rename would replace it.
        let linked = written.and_then(|()| fs::hard_link(&temporary, &path));
        fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => sync_folder(folder).map(|()| Created::Yes),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(error),
        }
    }
}

/// Makes folders and their names durable.
fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folders(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => return sync_folder(parent),
        }
    }
    fs::create_dir_all(folder)
}

fn list_sync(root: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut folders = vec![root.join(prefix)];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with('.') {
                let path = entry.path();
                keys.push(path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned());
            }
        }
    }
    keys.sort();
    Ok(keys)
}

#[async_trait]
impl Store for FolderStore {
    async fn create(&self, key: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        let (store, name) = (self.clone(), key.to_owned());
        self.blocking(format!("write '{key}'"), move || store.create_sync(&name, &bytes)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.root.join(key);
        let read = move || match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        };
        self.blocking(format!("read '{key}'"), read).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.root.join(key);
        let read = move || {
            let mut file = match fs::File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = Vec::new();
            file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        };
        self.blocking(format!("read '{key}'"), read).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let (root, name) = (self.root.clone(), prefix.to_owned());
        self.blocking(format!("list '{prefix}'"), move || list_sync(&root, &name)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let paths: Vec<PathBuf> = keys.iter().map(|key| self.root.join(key)).collect();
        let remove = move || {
            paths.iter().try_for_each(|path| match fs::remove_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            })
        };
        self.blocking("remove old objects".to_owned(), remove).await
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

impl FolderStore {
    async fn blocking<T: Send + 'static>(
        &self,
        action: String,
        run: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let action = format!("{action} in '{}'", self.root.display());
        match tokio::task::spawn_blocking(run).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreError { action, reason: with_cure(error).to_string() }),
            Err(error) => Err(StoreError { action, reason: error.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_racing_creates_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path().join("a/b"));

        let creates = (0..16_u8).map(|n| store.create("epochs/1", vec![n]));
        let results = futures::future::join_all(creates).await;

        let winners: Vec<usize> =
            (0..16).filter(|n| *results[*n].as_ref().unwrap() == Created::Yes).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(store.get("epochs/1").await.unwrap().unwrap(), [winners[0] as u8]);
        assert_eq!(store.list("epochs/").await.unwrap(), ["epochs/1"]);
        assert_eq!(store.get("epochs/2").await.unwrap(), None);
        assert_eq!(store.list("nothing/").await.unwrap(), [""; 0]);
    }
}

//! The data plane: a coordinator and workers that run a plan, take checkpoints, and recover from them.
//!
//! ```text
//! source ─▶ exchange ─▶ operator ─▶ state ─▶ sink
//!               barriers ─▶ checkpoint ─▶ store
//! ```
//! A module imports only from layers below its own; a test checks it.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod coordinator;
pub mod error;
pub mod exchange;
pub mod explain;
pub mod fault;
pub mod folders;
pub mod format;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod model;
pub mod operator;
pub mod options;
pub mod outside;
pub mod rpc;
pub mod sink;
pub mod source;
pub mod state;
pub mod task;
pub mod topology;
pub mod transport;
pub mod worker;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::{fs, io};

    /// From the bottom. Modules of one layer are strangers to each other.
    const LAYERS: [&[&str]; 11] = [
        &["model", "clock", "error", "fault", "folders", "transport", "topology"],
        &["options", "format", "explain"],
        &["kafka", "state"],
        &["checkpoint"],
        &["outside"],
        &["source", "exchange", "operator", "sink", "rpc"],
        &["task"],
        &["coordinator", "worker"],
        &["metrics"],
        &["http"],
        &["cli"],
    ];

    fn sources(path: &Path, found: &mut Vec<String>) -> io::Result<()> {
        if !path.is_dir() {
            found.push(fs::read_to_string(path)?);
            return Ok(());
        }
        fs::read_dir(path)?.try_for_each(|entry| sources(&entry?.path(), found))
    }

    fn layer(module: &str) -> Option<usize> {
        LAYERS.iter().position(|layer| layer.contains(&module))
    }

    /// Modules that a text names outside of its tests.
    fn named(text: &str) -> BTreeSet<&str> {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let after = code.split("crate::").skip(1);
        let end = |rest: &str| rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        after.map(|rest| &rest[..end(rest)]).filter(|name| layer(name).is_some()).collect()
    }

    #[test]
    fn modules_import_only_from_layers_below() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut modules = BTreeSet::new();
        let mut wrong = Vec::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let module = path.file_stem().unwrap().to_string_lossy().into_owned();
            if ["lib", "main"].contains(&module.as_str()) {
                continue;
            }
            let own = layer(&module);
            let mut texts = Vec::new();
            sources(&path, &mut texts).unwrap();
            for name in texts.iter().flat_map(|text| named(text)).filter(|name| *name != module) {
                if layer(name) >= own {
                    wrong.push(format!("{module} imports {name}"));
                }
            }
            modules.insert(module);
        }

        assert_eq!(wrong, Vec::<String>::new());
        let listed: BTreeSet<String> = LAYERS.concat().into_iter().map(str::to_owned).collect();
        assert_eq!(modules, listed);
    }
}

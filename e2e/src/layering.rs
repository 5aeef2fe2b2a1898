//! What may use what: the crates, and the modules inside of each.
//!
//! A module uses modules of lower rows only, so that the code can be read from the bottom up. ARCHITECTURE.md says what each is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of modules, highest first.
type Rows = &'static [&'static [&'static str]];

const CRATES: &[(&str, Rows)] = &[
    ("crds", &[&["manifest"], &["v1alpha1"], &["contract"]]),
    (
        "operator",
        &[
            &["reconcile"],
            &["deletion", "leader"],
            &["apply", "observe", "pipeline", "status"],
            &["refusal"],
            &["context", "desired"],
            &["decide"],
            &["labels", "metrics", "reports"],
            &["model", "names"],
        ],
    ),
    (
        "runtime",
        &[
            &["cli", "properties"],
            &["http"],
            &["explain", "metrics"],
            &["coordinator", "worker"],
            &["rpc", "task"],
            &["exchange", "operator", "sink", "source"],
            &["format", "kafka", "outside", "state", "topology"],
            &["checkpoint", "options", "transport"],
            &["secrets"],
            &["clock", "error", "fault", "folders", "model"],
        ],
    ),
    (
        "runtime/sql",
        &[
            &["planner"],
            &["evaluate", "kafka_keys", "metadata", "nexmark"],
            &["dialect", "functions"],
            &["plan"],
            &["connectors"],
            &["diagnostic", "secrets", "similar"],
        ],
    ),
    ("e2e", &[&["jobs"], &["store"], &["compare", "events", "outside"]]),
];

/// Crates that a crate must not know.
const STRANGERS: &[(&str, &[&str])] = &[
    ("crds", &["millrace", "millrace-sql", "millrace-operator"]),
    ("operator", &["millrace"]),
    ("runtime", &["millrace-operator"]),
    ("runtime/sql", &["millrace", "millrace-operator", "millrace-crds"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a crate that belong to modules, with the module's name.
fn files(source: &Path) -> Vec<(String, PathBuf)> {
    let mut folders = vec![source.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(source).unwrap().with_extension("");
            let module = inside.iter().next().unwrap().to_str().unwrap().to_owned();
            if !["lib", "main", "bin", "layering"].contains(&module.as_str()) {
                files.push((module, path));
            }
        }
    }
    files
}

/// Names that follow `crate::`, outside of tests and comments.
fn used(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let text = code.join("\n");
    let after = text.split("crate::").skip(1);
    let names = after.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
        None => vec![rest],
    });
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    names.map(|name| name.split(|letter| !is_word(letter)).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (name, rows) in CRATES {
        let row_of = |module: &str| rows.iter().position(|row| row.contains(&module));
        let files = files(&root().join(name).join("src"));
        let modules: BTreeSet<&str> = files.iter().map(|(module, _)| module.as_str()).collect();
        let listed: BTreeSet<&str> = rows.iter().flat_map(|row| row.iter().copied()).collect();
        wrong.extend(
            listed.difference(&modules).map(|module| format!("{name}: there is no module '{module}'")),
        );
        for (module, path) in &files {
            let Some(row) = row_of(module) else {
                wrong.push(format!("{name}: the module '{module}' has no row here"));
                continue;
            };
            for other in used(&fs::read_to_string(path).unwrap()) {
                let is_below = row_of(&other).is_some_and(|below| below > row);
                if modules.contains(other.as_str()) && other != *module && !is_below {
                    wrong.push(format!(
                        "{}: '{module}' uses '{other}', which is not below it",
                        path.display()
                    ));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn crates_meet_only_where_they_should() {
    for (name, strangers) in STRANGERS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        for stranger in *strangers {
            let is_known = dependencies
                .lines()
                .any(|line| line.split([' ', '.', '=']).next().is_some_and(|word| word == *stranger));
            assert!(!is_known, "{name} depends on {stranger}");
        }
    }
}

#[test]
fn decisions_ask_nobody() {
    let source = root().join("operator/src");
    let pure =
        files(&source).into_iter().filter(|(module, _)| ["decide", "desired"].contains(&module.as_str()));
    for (_, path) in pure {
        let text = fs::read_to_string(&path).unwrap();
        for word in ["async ", ".await", "kube::Client", "kube::Api"] {
            assert!(!text.contains(word), "{} has '{word}'", path.display());
        }
    }
}

//! Which secrets a job needs.

use super::{OperatorKind, Plan};
use crate::secrets;

/// A secret that a table's option names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSecret {
    pub table: String,
    pub option: String,
    pub name: String,
}

impl Plan {
    /// The secrets that tables name, in the order of tables and options.
    pub fn secrets(&self) -> Vec<NamedSecret> {
        let tables = self.operators.iter().filter_map(|operator| match operator.kind.as_ref()? {
            OperatorKind::Source(source) => source.table.as_ref(),
            OperatorKind::Sink(sink) => sink.table.as_ref(),
            _ => None,
        });
        let mut found: Vec<NamedSecret> = Vec::new();
        for table in tables {
            for (option, value) in &table.options {
                for name in secrets::names(value) {
                    let named = NamedSecret {
                        table: table.name.clone(),
                        option: option.clone(),
                        name: name.to_owned(),
                    };
                    if !found.contains(&named) {
                        found.push(named);
                    }
                }
            }
        }
        found
    }
}

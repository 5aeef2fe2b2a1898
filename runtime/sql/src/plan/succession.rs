//! Whether a plan can go on from the state of another. Pure.

use std::collections::BTreeSet;

use super::{Operator, OperatorKind, Plan, Table};
use crate::connectors::{Role, is_connection};

/// The plan that goes on from the state that `stored` has made, now that the SQL compiles to `compiled`: the stored one, reaching
/// the outside as the new one says.
///
/// # Errors
/// What differs beyond that, each with its table, option or operator.
pub fn succeed(stored: &Plan, compiled: &Plan) -> Result<Plan, Vec<String>> {
    let mut differences = BTreeSet::new();
    let mut plan = stored.clone();
    for operator in &mut plan.operators {
        let Some(new) = compiled.operators.iter().find(|new| new.id == operator.id) else {
            differences.insert(format!("there is no '{}' any more", operator.id));
            continue;
        };
        count_rows_as(operator, new);
        if let (Some((table, role)), Some((new_table, _))) = (table_mut(operator), table(new)) {
            differences.extend(different_options(table, new_table, role));
            table.options.clone_from(&new_table.options);
        }
        if operator != new {
            differences.insert(format!("'{}' does something else", operator.id));
        }
    }
    for new in &compiled.operators {
        if !stored.operators.iter().any(|operator| operator.id == new.id) {
            differences.insert(format!("there is a new '{}'", new.id));
        }
    }
    if differences.is_empty() && plan != *compiled {
        differences.insert("rows flow between the operators in another way".to_owned());
    }
    if differences.is_empty() { Ok(plan) } else { Err(differences.into_iter().collect()) }
}

/// How late rows are counted concerns no result and no state: what an earlier release has compiled does it as this one does.
fn count_rows_as(operator: &mut Operator, new: &Operator) {
    use OperatorKind::{LocalAggregate, WindowAggregate};
    match (&mut operator.kind, &new.kind) {
        (Some(LocalAggregate(old)), Some(LocalAggregate(new))) => {
            old.rows_column = new.rows_column;
            operator.output = Some(old.partial_schema());
        }
        (Some(WindowAggregate(old)), Some(WindowAggregate(new))) => old.rows_column = new.rows_column,
        _ => {}
    }
}

fn table(operator: &Operator) -> Option<(&Table, Role)> {
    match operator.kind.as_ref()? {
        OperatorKind::Source(source) => Some((source.table.as_ref()?, Role::Source)),
        OperatorKind::Sink(sink) => Some((sink.table.as_ref()?, Role::Sink)),
        _ => None,
    }
}

fn table_mut(operator: &mut Operator) -> Option<(&mut Table, Role)> {
    match operator.kind.as_mut()? {
        OperatorKind::Source(source) => Some((source.table.as_mut()?, Role::Source)),
        OperatorKind::Sink(sink) => Some((sink.table.as_mut()?, Role::Sink)),
        _ => None,
    }
}

fn different_options(old: &Table, new: &Table, role: Role) -> Vec<String> {
    let connector = old.options.get("connector").map_or("", String::as_str);
    let keys: BTreeSet<&String> = old.options.keys().chain(new.options.keys()).collect();
    let differs = |key: &&String| {
        old.options.get(*key) != new.options.get(*key) && !is_connection(connector, role, key)
    };
    let said = |table: &Table, key: &String| match table.options.get(key) {
        Some(value) => format!("'{value}'"),
        None => "not given".to_owned(),
    };
    let differing = keys.into_iter().filter(differs);
    differing
        .map(|key| {
            format!(
                "table '{}': the option '{key}' was {} and is {}",
                old.name,
                said(old, key),
                said(new, key)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::compile;

    const SQL: &str = "CREATE TABLE a (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'bootstrap.servers' = 'old:9092');
        CREATE TABLE b (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/b', 'format' = 'json');
        INSERT INTO b SELECT x FROM a WHERE x > 1;";

    #[test]
    fn a_plan_that_counts_late_rows_otherwise_is_the_same_plan() {
        let sql = "CREATE TABLE a (k BIGINT, x BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
              WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'bootstrap.servers' = 'a:9092');
            CREATE TABLE b (k BIGINT, x BIGINT) WITH ('connector' = 'blackhole');
            INSERT INTO b SELECT k, SUM(x) FROM TABLE(TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '1' SECOND))
            GROUP BY k, window_start, window_end;";
        let compiled = compile(sql).unwrap();
        let mut stored = compiled.clone();
        for operator in &mut stored.operators {
            match &mut operator.kind {
                Some(OperatorKind::LocalAggregate(local)) => {
                    local.rows_column = None;
                    operator.output = Some(local.partial_schema());
                }
                Some(OperatorKind::WindowAggregate(global)) => global.rows_column = None,
                _ => {}
            }
        }
        assert_ne!(stored, compiled);

        assert_eq!(succeed(&stored, &compiled), Ok(compiled.clone()));
        let other = compile(&sql.replace("SUM(x)", "MAX(x)")).unwrap();
        assert!(succeed(&stored, &other).is_err());
    }

    #[test]
    fn only_how_the_outside_is_reached_may_change() {
        let stored = compile(SQL).unwrap();
        let cases: &[(&str, &str, &str, &[&str])] = &[
            ("nothing", "", "", &[]),
            ("other brokers", "old:9092", "new:9092", &[]),
            ("a rate", "'topic'", "'scan.rows-per-second' = '5', 'topic'", &[]),
            ("another topic", "'t'", "'u'", &["table 'a': the option 'topic' was 't' and is 'u'"]),
            (
                "where to begin",
                "'topic'",
                "'scan.startup.mode' = 'latest-offset', 'topic'",
                &["table 'a': the option 'scan.startup.mode' was not given and is 'latest-offset'"],
            ),
            ("another folder", "'/b'", "'/c'", &["table 'b': the option 'path' was '/b' and is '/c'"]),
            ("another filter", "x > 1", "x > 2", &["'b/b/calc' does something else"]),
            ("another sink", "b ", "c ", &["there is a new 'c/c/sink'", "there is no 'b/b/sink' any more"]),
        ];
        for (case, from, to, expected) in cases {
            let compiled = compile(&SQL.replace(from, to)).unwrap();

            let succeeded = succeed(&stored, &compiled);

            match &succeeded {
                Ok(plan) => assert_eq!((plan, expected.len()), (&compiled, 0), "{case}"),
                Err(differences) => {
                    assert!(!expected.is_empty(), "{case}: {differences:?}");
                    for part in *expected {
                        assert!(differences.iter().any(|found| found == part), "{case}: {differences:?}");
                    }
                }
            }
        }
    }
}

//! Whether a plan can go on from the state of another. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Aggregate, Expr, Field, Node, Operator, OperatorKind, Plan, Table, WindowAggregate, matching, shared,
    text,
};
use crate::connectors::{Role, is_connection};

/// A plan that goes on from another's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Succession {
    /// With the ids of the other.
    pub plan: Plan,
    /// What it does otherwise, each with its operator; nothing if only the outside is reached in another way.
    pub changes: Vec<String>,
    /// Operators that get a copy of another's state, and whose: they were one in the other plan.
    pub copies: Vec<(String, String)>,
    /// Sinks of the other that are not there any more. What they have prepared is still to be committed.
    pub given_up: Vec<Operator>,
}

/// The plan that goes on from the state that `stored` has made, now that the SQL compiles to `compiled`.
///
/// Which rows come in, and what is made of them on their way, may change, and so may the way the outside is reached: that holds
/// from the checkpoint on. What is kept may not: where sources have come to, and what aggregates know, by which keys. With
/// `gives_up`, state of operators that are not there any more is let go.
///
/// # Errors
/// What the state does not fit, each with its table, option or operator.
pub fn succeed(stored: &Plan, compiled: &Plan, gives_up: bool) -> Result<Succession, Vec<String>> {
    let apart = succeed_apart(&shared::apart(stored), &shared::apart(compiled), gives_up)?;
    let (plan, copies) = shared::share_as(&apart.plan, stored);
    Ok(Succession { plan, copies, ..apart })
}

/// What to say of SQL that the state does not fit: what differs, as [`succeed`] tells it, and what can be done about it.
pub fn misfit(stored: &Plan, compiled: &Plan, differences: &[String]) -> String {
    let cure = match succeed(stored, compiled, true) {
        Ok(_) => "put it back, or let its state go with spec.upgrade.allowNonRestoredState: true",
        Err(_) => {
            "put that back, begin without state with spec.upgrade.mode: Stateless, or give the new pipeline another name, and its sinks \
             other places: both write from the beginning"
        }
    };
    format!("{}; {cure}", differences.join("; "))
}

/// The same of plans in which each INSERT is by itself.
fn succeed_apart(stored: &Plan, compiled: &Plan, gives_up: bool) -> Result<Succession, Vec<String>> {
    let plan = matching::with_ids_of(stored, compiled).map_err(|paths| {
        let told = |path: String| {
            format!("several '{path}' were changed and taken away, and it cannot be told which is which")
        };
        paths.into_iter().map(told).collect::<Vec<_>>()
    })?;
    let (mut differences, mut changes) = (BTreeSet::new(), BTreeSet::new());
    let of_new: BTreeMap<&str, usize> =
        plan.operators.iter().enumerate().map(|(index, operator)| (operator.id.as_str(), index)).collect();
    let (mut known, mut given_up) = (vec![false; plan.operators.len()], Vec::new());
    for (index, operator) in stored.operators.iter().enumerate() {
        let id = &operator.id;
        match of_new.get(id.as_str()) {
            Some(new) => {
                known[*new] = true;
                differences.extend(misfits(stored, index, &plan, *new));
                if definitions(stored, index) != definitions(&plan, *new) {
                    changes.insert(format!("'{id}' does something else"));
                }
            }
            None if keeps_something(operator) && !gives_up => {
                differences.insert(format!("there is no '{id}' any more"));
            }
            None => {
                changes.insert(format!("there is no '{id}' any more"));
                given_up
                    .extend(matches!(operator.kind, Some(OperatorKind::Sink(_))).then(|| operator.clone()));
            }
        }
    }
    for (index, operator) in plan.operators.iter().enumerate().filter(|(index, _)| !known[*index]) {
        let new = format!("there is a new '{}'", operator.id);
        if keeps_something(operator) && comes_late(&plan, index, &known) {
            differences.insert(format!("{new}, which would miss the rows that were read before"));
        } else {
            changes.insert(new);
        }
    }
    for (index, operator) in plan.operators.iter().enumerate().filter(|(index, _)| known[*index]) {
        if has_event_time(operator) && reads_anew(&plan, index, &known) {
            differences.insert(format!(
                "'{}' gets rows of a new source, which would be late for the windows that have fired",
                operator.id
            ));
        }
    }
    match differences.is_empty() {
        true => Ok(Succession { plan, changes: changes.into_iter().collect(), copies: Vec::new(), given_up }),
        false => Err(differences.into_iter().collect()),
    }
}

/// Sources know where they are, aggregates what they have seen, and sinks what is to be committed. The local half of an aggregate
/// gives away all it has before each checkpoint. What this release does not know may keep anything.
fn keeps_something(operator: &Operator) -> bool {
    !matches!(
        operator.kind,
        Some(OperatorKind::Calc(_) | OperatorKind::LocalAggregate(_) | OperatorKind::LocalGroupAggregate(_))
    )
}

/// True if rows come to an operator from a source that has read before.
fn comes_late(plan: &Plan, index: usize, known: &[bool]) -> bool {
    plan.inputs(index).map(|edge| edge.from as usize).any(|above| {
        let is_source = matches!(plan.operators[above].kind, Some(OperatorKind::Source(_)));
        (is_source && known[above]) || comes_late(plan, above, known)
    })
}

fn has_event_time(operator: &Operator) -> bool {
    matches!(operator.kind, Some(OperatorKind::WindowAggregate(_) | OperatorKind::SessionAggregate(_)))
}

/// True if rows come to an operator from a source that reads from its beginning.
fn reads_anew(plan: &Plan, index: usize, known: &[bool]) -> bool {
    plan.inputs(index).map(|edge| edge.from as usize).any(|above| {
        let is_source = matches!(plan.operators[above].kind, Some(OperatorKind::Source(_)));
        (is_source && !known[above]) || reads_anew(plan, above, known)
    })
}

/// What an operator's state does not fit in what the operator has become.
fn misfits(old_plan: &Plan, old: usize, new_plan: &Plan, new: usize) -> Vec<String> {
    let (before, after) = (&old_plan.operators[old], &new_plan.operators[new]);
    let id = &before.id;
    match (&before.kind, &after.kind) {
        (Some(OperatorKind::Source(before)), Some(OperatorKind::Source(after))) => {
            different_options(before.table.as_ref(), after.table.as_ref(), Role::Source)
        }
        (Some(OperatorKind::Sink(before)), Some(OperatorKind::Sink(after))) => {
            let mut found = different_options(before.table.as_ref(), after.table.as_ref(), Role::Sink);
            let key = |table: &Option<Table>| {
                table.as_ref().map_or_else(String::new, |table| table.primary_key.join(", "))
            };
            let (old_key, new_key) = (key(&before.table), key(&after.table));
            if old_key != new_key {
                found.push(format!("'{id}': PRIMARY KEY ({old_key}) is ({new_key}) now"));
            }
            let folders = |table: &Option<Table>| {
                table.as_ref().map_or_else(String::new, |table| table.partitioned_by.join(", "))
            };
            let (old_folders, new_folders) = (folders(&before.table), folders(&after.table));
            if old_folders != new_folders {
                found.push(format!("'{id}': PARTITIONED BY ({old_folders}) is ({new_folders}) now"));
            }
            found
        }
        (Some(OperatorKind::Calc(_)), Some(OperatorKind::Calc(_))) => {
            let changes = gives_changes(old_plan, old) || gives_changes(new_plan, new);
            let is_same = definitions(old_plan, old) == definitions(new_plan, new);
            let told = || {
                format!(
                    "'{id}' does something else, and rows that it has given before would be taken back as they never were"
                )
            };
            (changes && !is_same).then(told).into_iter().collect()
        }
        (Some(OperatorKind::LocalAggregate(_)), Some(OperatorKind::LocalAggregate(_)))
        | (Some(OperatorKind::LocalGroupAggregate(_)), Some(OperatorKind::LocalGroupAggregate(_))) => {
            Vec::new()
        }
        _ => {
            let (before, after) = (kept(old_plan, old), kept(new_plan, new));
            let differs = before.is_none() || before != after;
            let said = |kept: Option<String>| kept.unwrap_or_else(|| "something else".to_owned());
            let told = || format!("'{id}' keeps {}, and would keep {}", said(before), said(after));
            differs.then(told).into_iter().collect()
        }
    }
}

/// What an aggregate knows, and by what.
fn kept(plan: &Plan, index: usize) -> Option<String> {
    match plan.operators[index].kind.as_ref()? {
        OperatorKind::WindowAggregate(global) => {
            let window = global.window.as_ref().map(text::window).unwrap_or_default();
            let halves = plan.inputs(index).map(|edge| edge.from as usize);
            let halves: BTreeSet<String> =
                halves.filter_map(|half| kept_by_half(plan, half, global)).collect();
            Some(format!("{} in {window}", halves.into_iter().collect::<Vec<_>>().join(" and ")))
        }
        OperatorKind::SessionAggregate(session) => {
            let known = aggregated(plan, index, &session.keys, &session.key_fields, &session.aggregates, &[]);
            let time = definition(plan, index, session.time);
            Some(format!("{known} by {time} in SESSION(gap {})", text::duration(session.gap_ms)))
        }
        OperatorKind::GroupAggregate(group) if group.takes_states => {
            let halves = plan.inputs(index).map(|edge| edge.from as usize);
            let kept = halves.filter_map(|half| match plan.operators[half].kind.as_ref()? {
                OperatorKind::LocalGroupAggregate(local) => {
                    Some(aggregated(plan, half, &local.keys, &local.key_fields, &local.aggregates, &[]))
                }
                _ => None,
            });
            let kept: BTreeSet<String> = kept.collect();
            Some(kept.into_iter().collect::<Vec<_>>().join(" and "))
        }
        OperatorKind::GroupAggregate(group) => {
            Some(aggregated(plan, index, &group.keys, &group.key_fields, &group.aggregates, &[]))
        }
        OperatorKind::ChangelogNormalize(normalize) => {
            let field = |field: &Field| format!("{} {}", field.name, field.data_type());
            let fields: Vec<String> = normalize.fields.iter().map(field).collect();
            let keys = normalize.keys.iter().filter_map(|key| normalize.fields.get(*key as usize));
            let keys: Vec<&str> = keys.map(|field| field.name.as_str()).collect();
            Some(format!("the newest {} per ({})", fields.join(", "), keys.join(", ")))
        }
        _ => None,
    }
}

/// The same of a window's aggregate, by what comes to one of its local halves.
fn kept_by_half(plan: &Plan, half: usize, global: &WindowAggregate) -> Option<String> {
    let Some(OperatorKind::LocalAggregate(local)) = &plan.operators[half].kind else { return None };
    let (keys, distinct) = local.keys.split_at_checked(global.keys.len())?;
    let known = aggregated(plan, half, keys, &global.key_fields, &global.aggregates, distinct);
    Some(format!("{known} by {}", definition(plan, half, local.time)))
}

/// Aggregates and keys, by what the user has written for them. `distinct`: columns of the values that count once.
fn aggregated(
    plan: &Plan,
    index: usize,
    keys: &[u32],
    fields: &[Field],
    calls: &[Aggregate],
    distinct: &[u32],
) -> String {
    let named = |column: &u32| definition(plan, index, *column);
    let highest = |call: &Aggregate| call.argument.into_iter().chain(call.filter).max();
    let names: Vec<String> = match calls.iter().filter_map(highest).max() {
        Some(highest) => (0..=highest).map(|column| named(&column)).collect(),
        None => Vec::new(),
    };
    let distinct: Vec<String> = distinct.iter().map(named).collect();
    let call = |call: &Aggregate| {
        let names = if call.is_distinct && !distinct.is_empty() { &distinct } else { &names };
        let data_type = call.argument_type.as_ref().map(|data_type| format!(" of {data_type}"));
        let kept = if call.is_changing { " of rows that change" } else { "" };
        format!("{}{}{kept}", text::aggregate(call, names), data_type.unwrap_or_default())
    };
    let key = |(column, field): (&u32, &Field)| format!("{} {}", named(column), field.data_type());
    let calls: Vec<String> = calls.iter().map(call).collect();
    let keys: Vec<String> = keys.iter().zip(fields).map(key).collect();
    format!("{} per ({})", calls.join(", "), keys.join(", "))
}

/// A column that comes to an operator, in the words of the sources and aggregates that it is made of.
fn definition(plan: &Plan, operator: usize, column: u32) -> String {
    let of_inputs: BTreeSet<String> =
        plan.inputs(operator).map(|edge| output(plan, edge.from as usize, column)).collect();
    of_inputs.into_iter().collect::<Vec<_>>().join(" or ")
}

/// A column that an operator gives, in the same words.
fn output(plan: &Plan, operator: usize, column: u32) -> String {
    match &plan.operators[operator].kind {
        Some(OperatorKind::Calc(calc)) => calc
            .output
            .get(column as usize)
            .map_or_else(String::new, |expression| expanded(plan, operator, expression)),
        Some(OperatorKind::Source(source)) => {
            source.leaves.get(column as usize).map_or_else(String::new, |leaf| leaf.path.join("."))
        }
        Some(OperatorKind::ChangelogNormalize(normalize)) => {
            normalize.fields.get(column as usize).map_or_else(String::new, |field| field.name.clone())
        }
        _ => format!("'{}'[{column}]", plan.operators[operator].id),
    }
}

fn expanded(plan: &Plan, operator: usize, expression: &Expr) -> String {
    let names: Vec<String> =
        (0..width(expression)).map(|column| definition(plan, operator, column)).collect();
    text::expression(expression, &names)
}

/// One more than the highest column in an expression.
fn width(expression: &Expr) -> u32 {
    if let Some(Node::Column(column)) = expression.node {
        return column + 1;
    }
    expression.clone().children_mut().into_iter().map(|child| width(child)).max().unwrap_or(0)
}

/// What a Calc makes of its rows, and what a source says of their times, in the words of what is read.
fn definitions(plan: &Plan, index: usize) -> Vec<String> {
    match &plan.operators[index].kind {
        Some(OperatorKind::Calc(calc)) => {
            let filter = calc.filter.iter().map(|filter| format!("WHERE {}", expanded(plan, index, filter)));
            filter.chain(calc.output.iter().map(|output| expanded(plan, index, output))).collect()
        }
        Some(OperatorKind::Source(source)) => {
            let leaves: Vec<String> = source.leaves.iter().map(|leaf| leaf.path.join(".")).collect();
            source.watermark.iter().map(|watermark| text::expression(watermark, &leaves)).collect()
        }
        _ => Vec::new(),
    }
}

/// True if an operator gets rows that are taken back later.
fn gives_changes(plan: &Plan, index: usize) -> bool {
    plan.inputs(index).map(|edge| edge.from as usize).any(|above| match plan.operators[above].kind {
        Some(OperatorKind::GroupAggregate(_) | OperatorKind::ChangelogNormalize(_)) => true,
        _ => gives_changes(plan, above),
    })
}

fn different_options(old: Option<&Table>, new: Option<&Table>, role: Role) -> Vec<String> {
    let (Some(old), Some(new)) = (old, new) else { return Vec::new() };
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

    const SQL: &str = "CREATE TABLE a (x BIGINT, y BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'bootstrap.servers' = 'old:9092');
        CREATE TABLE b (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/b', 'format' = 'json');
        INSERT INTO b SELECT x FROM a WHERE x > 1;";

    /// A change of the text, and what has to be said of it.
    type Change = (&'static str, &'static str, &'static str, &'static [&'static str]);

    fn check(sql: &str, changes: &[Change]) {
        let stored = compile(sql).unwrap();
        for (case, from, to, expected) in changes {
            assert!(sql.contains(from), "{case}");
            let compiled = compile(&sql.replace(from, to)).unwrap();

            let succeeded = succeed(&stored, &compiled, false);

            let differences = match &succeeded {
                Ok(succeeded) => {
                    assert_eq!(succeeded.plan, compiled, "{case}");
                    let reaches_otherwise = ["nothing", "other brokers", "a rate"].contains(case);
                    assert_eq!(succeeded.changes.is_empty(), reaches_otherwise, "{case}: {succeeded:?}");
                    &[][..]
                }
                Err(differences) => differences,
            };
            assert_eq!(differences.len(), expected.len(), "{case}: {differences:?}");
            for (found, part) in differences.iter().zip(*expected) {
                assert!(found.contains(part), "{case}: {differences:?}");
            }
        }
    }

    #[test]
    fn a_plan_that_counts_late_rows_otherwise_goes_on() {
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

        assert_eq!(
            succeed(&stored, &compiled, false),
            Ok(Succession {
                plan: compiled.clone(),
                changes: Vec::new(),
                copies: Vec::new(),
                given_up: Vec::new()
            })
        );
        let other = compile(&sql.replace("SUM(x)", "MAX(x)")).unwrap();
        let differences = succeed(&stored, &other, true).unwrap_err();
        assert!(misfit(&stored, &other, &differences).contains("begin without state with spec.upgrade.mode"));
    }

    #[test]
    fn a_running_aggregate_goes_on_from_a_state_that_was_not_added_up_before() {
        let sql = "CREATE TABLE a (k BIGINT, x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'json');
            CREATE TABLE b (k BIGINT, x BIGINT) WITH ('connector' = 'blackhole');
            INSERT INTO b SELECT k, SUM(x) FROM a WHERE x > 1 GROUP BY k;";
        let compiled = compile(sql).unwrap();
        // As releases before the local half have compiled it.
        let mut stored = compiled.clone();
        let local = stored.operators.iter().position(|operator| operator.id == "b/a/group-local").unwrap();
        let Some(OperatorKind::LocalGroupAggregate(half)) = stored.operators.remove(local).kind else {
            panic!("another operator")
        };
        let columns = half.keys.clone();
        stored.operators[local].kind = Some(OperatorKind::GroupAggregate(half));
        stored.edges.remove(stored.edges.iter().position(|edge| edge.to as usize == local).unwrap());
        for edge in &mut stored.edges {
            if edge.from as usize == local {
                edge.from -= 1;
                edge.hash = Some(crate::plan::HashKeys { columns: columns.clone() });
            } else if edge.from as usize > local {
                edge.from -= 1;
            }
            edge.to -= u32::from(edge.to as usize > local);
        }

        let edited = compile(&sql.replace("x > 1", "x > 2")).unwrap();
        assert_eq!(succeed(&stored, &edited, false).unwrap().plan, edited);
        assert_eq!(succeed(&edited, &stored, false).unwrap().plan, stored, "and the other way round");
        let other = compile(&sql.replace("SUM(x)", "MAX(x)")).unwrap();
        let differences = succeed(&stored, &other, false).unwrap_err();
        assert!(
            differences[0].contains("'b/a/group' keeps SUM(x) of BIGINT per (k BIGINT)"),
            "{differences:?}"
        );
    }

    #[test]
    fn what_is_read_and_written_stays_and_what_is_made_of_it_may_change() {
        check(
            SQL,
            &[
                ("nothing", "x", "x", &[]),
                ("other brokers", "old:9092", "new:9092", &[]),
                ("a rate", "'topic'", "'scan.rows-per-second' = '5', 'topic'", &[]),
                ("another filter", "x > 1", "x > 2 AND y < 3", &[]),
                ("no filter", "WHERE x > 1", "", &[]),
                ("another column", "SELECT x", "SELECT y + 1", &[]),
                ("another topic", "'t'", "'u'", &["table 'a': the option 'topic' was 't' and is 'u'"]),
                (
                    "where to begin",
                    "'topic'",
                    "'scan.startup.mode' = 'latest-offset', 'topic'",
                    &["table 'a': the option 'scan.startup.mode' was not given and is 'latest-offset'"],
                ),
                ("another folder", "'/b'", "'/c'", &["table 'b': the option 'path' was '/b' and is '/c'"]),
                (
                    "another sink",
                    "b ",
                    "c ",
                    &["there is no 'b/a/source' any more", "there is no 'b/b/sink' any more"],
                ),
                (
                    "an aggregate more",
                    "x FROM a WHERE x > 1",
                    "n FROM (SELECT window_end, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '1' SECOND))
                     GROUP BY window_start, window_end) AS w",
                    &["there is a new 'b/a/tumble', which would miss"],
                ),
            ],
        );
    }

    #[test]
    fn what_aggregates_know_stays_and_which_rows_they_take_may_change() {
        check(
            "CREATE TABLE a (k BIGINT, x BIGINT, y BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '4' SECOND)
               WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'bootstrap.servers' = 'a:9092');
             CREATE TABLE b (k BIGINT, x BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
             INSERT INTO b SELECT k, SUM(x), COUNT(DISTINCT y)
             FROM TABLE(HOP(TABLE a, DESCRIPTOR(ts), INTERVAL '1' SECOND, INTERVAL '5' SECOND)) WHERE y > 1
             GROUP BY k, window_start, window_end HAVING MAX(y) > 3;",
            &[
                ("another filter", "y > 1", "x + y > 2", &[]),
                ("a column read more", "y > 1", "k > 0 AND y > 1", &[]),
                ("another condition on results", "> 3", "> 4", &[]),
                ("a result in another form", "SELECT k", "SELECT k + 1", &[]),
                ("a later watermark", "'4' SECOND", "'9' SECOND", &[]),
                ("another value", "SUM(x)", "SUM(y)", &["'b/a/hop' keeps SUM(x) of BIGINT, "]),
                ("another function", "SUM(x)", "MIN(x)", &["and would keep MIN(x) of BIGINT"]),
                ("another distinct value", "DISTINCT y", "DISTINCT x", &["COUNT(DISTINCT x) of BIGINT"]),
                ("another key", "GROUP BY k", "GROUP BY k, y", &["per (k BIGINT, y BIGINT)"]),
                ("another window", "'5' SECOND", "'6' SECOND", &["in HOP(slide 1 s, size 6 s)"]),
            ],
        );
    }

    #[test]
    fn windows_that_have_fired_get_no_rows_of_a_source_that_begins() {
        let compiled = compile(
            "CREATE TABLE a (x BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
               WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'bootstrap.servers' = 'a:9092');
             CREATE TABLE b (n BIGINT) WITH ('connector' = 'blackhole');
             INSERT INTO b SELECT COUNT(*) FROM TABLE(TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '1' SECOND))
             GROUP BY window_start, window_end;",
        );
        let compiled = compiled.unwrap();
        let mut stored = compiled.clone();
        let source = stored.operators.iter_mut().find(|operator| operator.id == "b/a/source").unwrap();
        (source.id, source.kind) =
            ("b/earlier/calc".to_owned(), Some(OperatorKind::Calc(Default::default())));

        let differences = succeed(&stored, &compiled, false).unwrap_err();

        let told = "'b/a/tumble' gets rows of a new source, which would be late";
        assert!(differences.iter().any(|found| found.contains(told)), "{differences:?}");
    }

    #[test]
    fn rows_that_are_taken_back_later_stay_as_they_were() {
        check(
            "CREATE TABLE a (k BIGINT, x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'json');
             CREATE TABLE b (k BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
             INSERT INTO b SELECT k, n + 1 FROM (SELECT k, COUNT(*) AS n FROM a WHERE x > 1 GROUP BY k) AS g;",
            &[
                ("which rows come in", "x > 1", "x > 2", &[]),
                ("what comes out", "n + 1", "n + 2", &["'b/b/calc' does something else"]),
            ],
        );
    }

    #[test]
    fn an_insert_put_before_others_takes_no_ids_from_them() {
        let tables =
            "CREATE TABLE a (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'json');
             CREATE TABLE b (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/b', 'format' = 'json');";
        let plan = |conditions: &[&str]| {
            let inserts = conditions
                .iter()
                .map(|condition| format!("INSERT INTO b SELECT x FROM a WHERE {condition};"));
            compile(&format!("{tables}{}", inserts.collect::<String>())).unwrap()
        };
        let stored = plan(&["x > 1", "x IS NULL"]);
        type Case = (&'static str, &'static [&'static str], Result<&'static [&'static str], &'static str>);
        let cases: &[Case] = &[
            ("the same", &["x > 1", "x IS NULL"], Ok(&["", "/2"])),
            ("the other way round", &["x IS NULL", "x > 1"], Ok(&["/2", ""])),
            ("one before", &["x < 0", "x > 1", "x IS NULL"], Ok(&["/3", "", "/2"])),
            ("one between", &["x > 1", "x < 0", "x IS NULL"], Ok(&["", "/3", "/2"])),
            ("one changed", &["x > 5", "x IS NULL"], Ok(&["", "/2"])),
            ("one changed and another before", &["x < 0", "x > 5", "x IS NULL"], Ok(&["/3", "", "/2"])),
            ("one in another form", &["x + 1 > 1", "x IS NULL"], Ok(&["", "/2"])),
            ("both", &["x = 3", "x = 4"], Ok(&["", "/2"])),
            (
                "one in another form and another before",
                &["x = 0", "x = 5", "x IS NULL"],
                Err("cannot be told which is which"),
            ),
            ("one taken away", &["x IS NULL"], Err("there is no 'b/b/sink' any more")),
        ];
        let one = plan(&["x IS NULL"]);
        let lets_go = succeed(&stored, &one, true).unwrap();
        let given_up: Vec<&str> = lets_go.given_up.iter().map(|sink| sink.id.as_str()).collect();
        assert_eq!(given_up, ["b/b/sink"], "the one that is there still is the second");
        assert!(lets_go.changes.iter().any(|change| change == "there is no 'b/a/source' any more"));
        let differences = succeed(&stored, &one, false).unwrap_err();
        assert!(misfit(&stored, &one, &differences).ends_with("spec.upgrade.allowNonRestoredState: true"));
        for (case, conditions, expected) in cases {
            let succeeded = succeed(&stored, &plan(conditions), false);

            match (succeeded, expected) {
                (Ok(succeeded), Ok(numbers)) => {
                    let ids = |kind: &str| -> Vec<String> {
                        let of_kind =
                            succeeded.plan.operators.iter().filter(|operator| operator.id.starts_with(kind));
                        of_kind.map(|operator| operator.id.clone()).collect()
                    };
                    for path in ["b/a/source", "b/b/calc", "b/b/sink"] {
                        let expected: Vec<String> =
                            numbers.iter().map(|number| format!("{path}{number}")).collect();
                        assert_eq!(ids(path), expected, "{case}");
                    }
                }
                (Err(differences), Err(part)) => {
                    assert!(differences.iter().any(|found| found.contains(part)), "{case}: {differences:?}");
                }
                (succeeded, _) => panic!("{case}: {succeeded:?}"),
            }
        }
    }
}

//! Which operator of a new plan is which of the old one, where several have the same path. Pure.
//!
//! A path of the user's names may belong to several operators: those of INSERTs into one table, or of the parts of a union. They
//! are numbered in the order of the text, and a further INSERT before them must not move the numbers: the state is found by them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expr, Node, Operator, OperatorKind, Plan};
use crate::connectors::{Role, is_connection};

/// The new plan with the ids that its operators have in the old one. Those that are not in the old one get numbers of their own.
///
/// # Errors
/// Paths of which some operators are gone and others have changed, so that it cannot be told which is which.
pub fn with_ids_of(old: &Plan, new: &Plan) -> Result<Plan, BTreeSet<String>> {
    let (before, after) = (by_path(old), by_path(new));
    let mut ambiguous = BTreeSet::new();
    let mut renamed = new.clone();
    for (path, members) in after {
        let known = before.get(path).map_or(&[][..], Vec::as_slice);
        match assign(old, known, new, &members) {
            Some(assigned) => {
                let taken = known.iter().map(|index| number(&old.operators[*index].id, path));
                let mut next = taken.max().unwrap_or(0) + 1;
                for (member, known) in members.iter().zip(assigned) {
                    renamed.operators[*member].id = match known {
                        Some(known) => old.operators[known].id.clone(),
                        None => {
                            next += 1;
                            numbered(path, next - 1)
                        }
                    };
                }
            }
            None => {
                ambiguous.insert(path.to_owned());
            }
        }
    }
    if ambiguous.is_empty() { Ok(renamed) } else { Err(ambiguous) }
}

/// For each of the new operators the old one that it is; none for a further one. `None` if that cannot be told.
fn assign(old: &Plan, known: &[usize], new: &Plan, members: &[usize]) -> Option<Vec<Option<usize>>> {
    let mut assigned = vec![None; members.len()];
    let mut left: Vec<usize> = known.to_vec();
    // What is the same in all is found first, then what is the same but for constants.
    for is_exact in [true, false] {
        let surroundings = |plan: &Plan, index: usize| {
            format!("{} {}", above(plan, index, is_exact), below(plan, index, is_exact))
        };
        for (place, member) in assigned.iter_mut().zip(members).filter(|(place, _)| place.is_none()) {
            let wanted = surroundings(new, *member);
            if let Some(found) = left.iter().position(|index| surroundings(old, *index) == wanted) {
                *place = Some(left.remove(found));
            }
        }
    }
    let open = assigned.iter().filter(|place| place.is_none()).count();
    if left.len() == open {
        // As many as before: they were changed where they are.
        let mut left = left.into_iter();
        assigned.iter_mut().filter(|place| place.is_none()).for_each(|place| *place = left.next());
    } else if !left.is_empty() && open > 0 {
        return None;
    }
    Some(assigned)
}

/// Operators by their paths, each path's in the order of the plan.
fn by_path(plan: &Plan) -> BTreeMap<&str, Vec<usize>> {
    let mut paths: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, operator) in plan.operators.iter().enumerate() {
        paths.entry(path(&operator.id)).or_default().push(index);
    }
    paths
}

/// An id without the number among equals.
fn path(id: &str) -> &str {
    match id.rsplit_once('/') {
        Some((path, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => path,
        _ => id,
    }
}

fn number(id: &str, path: &str) -> usize {
    id[path.len()..].trim_start_matches('/').parse().unwrap_or(1)
}

/// The id of the n-th operator of a path, from 1.
pub fn numbered(path: &str, number: usize) -> String {
    if number <= 1 { path.to_owned() } else { format!("{path}/{number}") }
}

/// What an operator does and everything that rows come to it through.
fn above(plan: &Plan, index: usize, is_exact: bool) -> String {
    let inputs = plan.inputs(index).map(|edge| above(plan, edge.from as usize, is_exact));
    format!("{}({})", content(&plan.operators[index], is_exact), sorted(inputs))
}

/// What an operator does and everything that rows go to from it.
fn below(plan: &Plan, index: usize, is_exact: bool) -> String {
    let outputs = plan.outputs(index).map(|edge| below(plan, edge.to as usize, is_exact));
    format!("{}({})", content(&plan.operators[index], is_exact), sorted(outputs))
}

fn sorted(parts: impl Iterator<Item = String>) -> String {
    let mut parts: Vec<String> = parts.collect();
    parts.sort_unstable();
    parts.join(",")
}

/// What an operator does, however the outside is reached; with or without the constants.
fn content(operator: &Operator, is_exact: bool) -> String {
    let mut kind = operator.kind.clone();
    match &mut kind {
        Some(OperatorKind::Source(source)) => {
            without_connection(source.table.as_mut(), Role::Source);
            if !is_exact {
                source.watermark.iter_mut().for_each(without_constants);
            }
        }
        Some(OperatorKind::Sink(sink)) => without_connection(sink.table.as_mut(), Role::Sink),
        Some(OperatorKind::Calc(calc)) if !is_exact => {
            calc.filter.iter_mut().chain(&mut calc.output).for_each(without_constants);
        }
        _ => {}
    }
    format!("{kind:?}")
}

fn without_connection(table: Option<&mut super::Table>, role: Role) {
    if let Some(table) = table {
        let connector = table.options.get("connector").cloned().unwrap_or_default();
        table.options.retain(|option, _| !is_connection(&connector, role, option));
    }
}

fn without_constants(expression: &mut Expr) {
    if let Some(Node::Literal(literal)) = &mut expression.node {
        literal.value = None;
    }
    expression.children_mut().into_iter().for_each(without_constants);
}

//! Operators that several INSERTs have in common run once. Pure.
//!
//! Each INSERT is planned by itself. Then operators that do the same with the same rows become one, whose rows go to all who need
//! them; it remembers the ids of the others, so that they can be told apart again ([`apart`]): edited SQL is compared INSERT by
//! INSERT. Sources stay as they are: a table is read once by those who stand at the same place of it, which a plan does not know.

use std::collections::{BTreeMap, BTreeSet};

use super::{Edge, Operator, OperatorKind, Plan, Twin};

/// A plan whose INSERTs were planned one by one, with what they have in common once.
pub fn share(plan: &Plan) -> Plan {
    merge(plan, |_, _| true)
}

/// The same with what was one in another plan, as far as it still is the same; also which operators are not any more, and get a
/// copy of the state that they had in common: their ids, and those of the ones whose state it is.
pub fn share_as(plan: &Plan, stored: &Plan) -> (Plan, Vec<(String, String)>) {
    let mut one: BTreeMap<&str, &str> = BTreeMap::new();
    for operator in &stored.operators {
        one.insert(&operator.id, &operator.id);
        one.extend(operator.twins.iter().map(|twin| (twin.id.as_str(), operator.id.as_str())));
    }
    let merged = merge(plan, |twin, operator| one.get(twin).is_some_and(|of| one.get(operator) == Some(of)));
    let alone = merged.operators.iter().filter(|operator| keeps_state(operator));
    let copies = alone.filter_map(|operator| {
        let of = one.get(operator.id.as_str()).filter(|of| **of != operator.id)?;
        Some((operator.id.clone(), (*of).to_owned()))
    });
    let copies = copies.collect();
    (merged, copies)
}

/// The plan with each INSERT by itself.
pub fn apart(plan: &Plan) -> Plan {
    if plan.operators.iter().all(|operator| operator.twins.is_empty()) {
        return plan.clone();
    }
    let mut places: BTreeMap<&str, usize> =
        plan.operators.iter().enumerate().map(|(index, operator)| (operator.id.as_str(), index)).collect();
    // At the end first, where they do not move others; operators are put in order below.
    let mut operators: Vec<Operator> = plan.operators.to_vec();
    let mut edges: Vec<Edge> = Vec::new();
    for (index, operator) in plan.operators.iter().enumerate() {
        operators[index].twins.clear();
        for twin in &operator.twins {
            places.insert(&twin.id, operators.len());
            operators.push(Operator { id: twin.id.clone(), twins: Vec::new(), ..operator.clone() });
        }
    }
    for edge in &plan.edges {
        let from = if edge.twin.is_empty() {
            Some(edge.from as usize)
        } else {
            places.get(edge.twin.as_str()).copied()
        };
        edges.push(Edge {
            from: from.unwrap_or(edge.from as usize) as u32,
            twin: String::new(),
            ..edge.clone()
        });
    }
    for (index, operator) in plan.operators.iter().enumerate() {
        for twin in &operator.twins {
            let to = places[twin.id.as_str()] as u32;
            for (edge, from) in plan.inputs(index).zip(&twin.inputs) {
                let from = places.get(from.as_str()).copied().unwrap_or(edge.from as usize) as u32;
                edges.push(Edge { from, to, hash: edge.hash.clone(), twin: String::new() });
            }
        }
    }
    in_order(operators, edges, plan)
}

/// Puts operators back where they were: twins know their places, and all others follow one another around them.
fn in_order(operators: Vec<Operator>, edges: Vec<Edge>, plan: &Plan) -> Plan {
    let twins: BTreeMap<&str, u32> = plan
        .operators
        .iter()
        .flat_map(|operator| &operator.twins)
        .map(|twin| (twin.id.as_str(), twin.place))
        .collect();
    let mut at: Vec<Option<usize>> = vec![None; operators.len()];
    for (index, operator) in operators.iter().enumerate() {
        if let Some(place) = twins.get(operator.id.as_str())
            && let Some(place) = at.get_mut(*place as usize)
        {
            *place = Some(index);
        }
    }
    let placed: BTreeSet<usize> = at.iter().flatten().copied().collect();
    let mut others = (0..operators.len()).filter(|index| !placed.contains(index));
    let order: Vec<usize> = at.into_iter().filter_map(|place| place.or_else(|| others.next())).collect();
    let mut new = vec![0; operators.len()];
    order.iter().enumerate().for_each(|(place, index)| new[*index] = place as u32);
    let mut edges: Vec<Edge> = edges
        .into_iter()
        .map(|edge| Edge { from: new[edge.from as usize], to: new[edge.to as usize], ..edge })
        .collect();
    edges.sort_by_key(|edge| edge.to);
    Plan { operators: order.into_iter().map(|index| operators[index].clone()).collect(), edges }
}

/// Makes one of operators that are the same, if that may be: asked with the id of the later one and of the one that stays.
fn merge(plan: &Plan, may_be: impl Fn(&str, &str) -> bool) -> Plan {
    // By operator: the one that it has become. Sources stay, and are the same for those who get their rows.
    let mut one_of: Vec<usize> = (0..plan.operators.len()).collect();
    let mut alike: Vec<usize> = Vec::new();
    for (index, operator) in plan.operators.iter().enumerate() {
        if matches!(operator.kind, Some(OperatorKind::Sink(_))) {
            continue;
        }
        let is_source = matches!(operator.kind, Some(OperatorKind::Source(_)));
        let is_same = |other: &&usize| {
            let other_operator = &plan.operators[**other];
            operator.kind == other_operator.kind
                && operator.output == other_operator.output
                && inputs(plan, index, &one_of) == inputs(plan, **other, &one_of)
                && (is_source || may_be(&operator.id, &other_operator.id))
        };
        match alike.iter().find(is_same) {
            Some(other) => one_of[index] = *other,
            None => alike.push(index),
        }
    }
    let is_source = |index: usize| matches!(plan.operators[index].kind, Some(OperatorKind::Source(_)));
    let stays = |index: usize| one_of[index] == index || is_source(index);
    let mut new = vec![0; plan.operators.len()];
    let mut merged = Plan::default();
    for (index, operator) in plan.operators.iter().enumerate().filter(|(index, _)| stays(*index)) {
        new[index] = merged.operators.len() as u32;
        merged.operators.push(operator.clone());
    }
    for (index, operator) in plan.operators.iter().enumerate().filter(|(index, _)| !stays(*index)) {
        let inputs = plan.inputs(index).map(|edge| plan.operators[edge.from as usize].id.clone());
        let twin = Twin { id: operator.id.clone(), inputs: inputs.collect(), place: index as u32 };
        merged.operators[new[one_of[index]] as usize].twins.push(twin);
    }
    for edge in plan.edges.iter().filter(|edge| stays(edge.to as usize)) {
        let from = edge.from as usize;
        let twin = if stays(from) { String::new() } else { plan.operators[from].id.clone() };
        let sender = if stays(from) { from } else { one_of[from] };
        merged.edges.push(Edge {
            from: new[sender],
            to: new[edge.to as usize],
            twin,
            hash: edge.hash.clone(),
        });
    }
    merged
}

/// From where rows come to an operator, and how they are parted.
fn inputs<'a>(plan: &'a Plan, operator: usize, one_of: &[usize]) -> Vec<(usize, Option<&'a [u32]>)> {
    let inputs = plan.inputs(operator);
    inputs
        .map(|edge| (one_of[edge.from as usize], edge.hash.as_ref().map(|hash| hash.columns.as_slice())))
        .collect()
}

fn keeps_state(operator: &Operator) -> bool {
    !matches!(
        operator.kind,
        Some(
            OperatorKind::Calc(_)
                | OperatorKind::LocalGroupAggregate(_)
                | OperatorKind::LocalAggregate(_)
                | OperatorKind::Source(_)
                | OperatorKind::Sink(_)
        )
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::compile;
    use crate::plan::succeed;

    const TABLES: &str = "CREATE TABLE t (k BIGINT, x BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
           WITH ('connector' = 'kafka', 'topic' = 't', 'format' = 'json', 'bootstrap.servers' = 'a:9092');
         CREATE TABLE a (k BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
         CREATE TABLE b (k BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
         CREATE TABLE c (k BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
         CREATE VIEW counts AS SELECT k, COUNT(*) AS n, SUM(x) AS total FROM t WHERE x > 1 GROUP BY k;
         CREATE VIEW windows AS SELECT k, SUM(x) AS n FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
           GROUP BY k, window_start, window_end;";

    fn plan(inserts: &str) -> Plan {
        compile(&format!("{TABLES} {inserts}")).unwrap()
    }

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.operators.iter().map(|operator| operator.id.as_str()).collect()
    }

    fn sends(plan: &Plan) -> Vec<String> {
        let id = |index: u32| plan.operators[index as usize].id.as_str();
        plan.edges.iter().map(|edge| format!("{} > {}", id(edge.from), id(edge.to))).collect()
    }

    #[test]
    fn what_inserts_have_in_common_is_there_once() {
        let shared = plan(
            "INSERT INTO a SELECT k, n FROM counts; INSERT INTO b SELECT k, total FROM counts WHERE n > 3;",
        );
        assert_eq!(
            ids(&shared),
            [
                "a/t/source",
                "a/t/calc",
                "a/t/group-local",
                "a/t/group",
                "a/a/calc",
                "a/a/sink",
                "b/t/source",
                "b/b/calc",
                "b/b/sink"
            ]
        );
        assert_eq!(
            sends(&shared),
            [
                "a/t/source > a/t/calc",
                "a/t/calc > a/t/group-local",
                "a/t/group-local > a/t/group",
                "a/t/group > a/a/calc",
                "a/a/calc > a/a/sink",
                "a/t/group > b/b/calc",
                "b/b/calc > b/b/sink"
            ]
        );
    }

    #[test]
    fn inserts_can_be_told_apart_again() {
        for inserts in [
            "INSERT INTO a SELECT k, n FROM counts;",
            "INSERT INTO a SELECT k, n FROM counts; INSERT INTO b SELECT k, total FROM counts WHERE n > 3;",
            "INSERT INTO a SELECT k, n FROM windows; INSERT INTO c SELECT k, x FROM t; INSERT INTO a SELECT k, n FROM windows;
             INSERT INTO b SELECT k, n FROM windows UNION ALL SELECT k, n FROM windows;",
            "INSERT INTO a SELECT MAX(k), n FROM (SELECT * FROM counts UNION ALL SELECT * FROM counts) AS u GROUP BY n;
             INSERT INTO b SELECT MAX(k), n FROM (SELECT * FROM counts UNION ALL SELECT * FROM counts) AS u GROUP BY n;",
        ] {
            let shared = plan(inserts);
            let alone = apart(&shared);

            assert!(alone.operators.iter().all(|operator| operator.twins.is_empty()));
            assert_eq!(share(&alone), shared, "{inserts}");
            assert_eq!(apart(&share(&alone)), alone, "{inserts}");
            assert_eq!(share_as(&alone, &shared), (shared.clone(), Vec::new()), "{inserts}");
            let sinks = inserts.matches("INSERT").count() + inserts.matches("windows UNION").count();
            let groups = alone.operators.iter().filter(|operator| keeps_state(operator)).count();
            assert!(groups >= sinks - inserts.matches("FROM t;").count(), "{inserts}: {:?}", ids(&alone));
        }
    }

    #[test]
    fn edited_sql_goes_on_from_a_state_that_is_had_in_common() {
        let two =
            "INSERT INTO a SELECT k, n FROM windows; INSERT INTO b SELECT k, n FROM windows WHERE n > 7;";
        let stored = plan(two);
        let after = |sql: &str| {
            let succeeded = succeed(&stored, &compile(sql).unwrap(), false);
            succeeded.map(|succeeded| ids(&succeeded.plan).join(" "))
        };
        let text = format!("{TABLES} {two}");
        let as_before = Ok(ids(&stored).join(" "));
        assert_eq!(after(&text), as_before);
        // What both have in common may change as it may where it is one INSERT's, and what each has for itself.
        let filtered = text.replace("'1' MINUTE))", "'1' MINUTE)) WHERE x > 2");
        assert_eq!(after(&filtered), as_before);
        assert_eq!(after(&text.replace("n > 7", "n > 8")), as_before);
        assert_eq!(
            after(&text.replace("SELECT k, n FROM windows WHERE", "SELECT k + 1, n FROM windows WHERE")),
            as_before
        );
        let refused = after(&text.replace("SUM(x) AS n", "MIN(x) AS n")).unwrap_err().join(" ");
        assert!(
            refused.contains("'a/t/tumble' keeps") && refused.contains("'b/t/tumble' keeps"),
            "{refused}"
        );
        // A further INSERT reads from its own beginning, and so it counts by itself.
        let third = after(&format!("{text} INSERT INTO c SELECT k, n FROM windows;")).unwrap();
        assert!(
            third.ends_with("c/t/source c/t/calc c/t/tumble-local c/t/tumble c/c/calc c/c/sink"),
            "{third}"
        );
        // One that goes another way alone gets a copy of the state that both had.
        let alone = text.replace(
            "FROM windows WHERE n > 7",
            "FROM (SELECT k, SUM(x) AS n FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) WHERE x > 5
             GROUP BY k, window_start, window_end) AS w",
        );
        let parted = succeed(&stored, &compile(&alone).unwrap(), false).unwrap();
        let copied = |from: &str, to: &str| vec![(from.to_owned(), to.to_owned())];
        assert_eq!(parted.copies, copied("b/t/tumble", "a/t/tumble"));
        assert_eq!(ids(&parted.plan).iter().filter(|id| id.ends_with("/tumble")).count(), 2);
        // And from then on each has its own, also where both are the same again.
        let again = succeed(&parted.plan, &compile(&text).unwrap(), false).unwrap();
        assert_eq!((again.copies, ids(&again.plan)), (Vec::new(), ids(&parted.plan)));
        // The state goes to the one that stays when the one that it was stored for is taken away.
        let one = text.replace("INSERT INTO a SELECT k, n FROM windows;", "");
        let third = format!("{text} INSERT INTO c SELECT k, n FROM windows;");
        let gone = succeed(&stored, &compile(&one).unwrap(), true).unwrap();
        assert_eq!(gone.copies, copied("b/t/tumble", "a/t/tumble"));
        // Those that stay have it in common still.
        let stored = compile(&third).unwrap();
        let two = third.replace("INSERT INTO a SELECT k, n FROM windows;", "");
        let gone = succeed(&stored, &compile(&two).unwrap(), true).unwrap();
        assert_eq!(gone.copies, copied("b/t/tumble", "a/t/tumble"));
        assert_eq!(ids(&gone.plan).iter().filter(|id| id.ends_with("/tumble")).count(), 1);
        let sinks: Vec<&str> = gone.given_up.iter().map(|operator| operator.id.as_str()).collect();
        assert_eq!(sinks, ["a/a/sink"]);
    }
}

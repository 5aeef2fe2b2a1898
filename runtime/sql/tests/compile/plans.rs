//! Plans of texts that compile.

use millrace_sql::compile;
use millrace_sql::plan::{OperatorKind, Plan};

use super::{SETUP, UPSERT, job, plan};

fn ids(plan: &Plan) -> Vec<&str> {
    plan.operators.iter().map(|operator| operator.id.as_str()).collect()
}

fn leaves(plan: &Plan) -> Vec<String> {
    let sources = plan.operators.iter().filter_map(|operator| match &operator.kind {
        Some(OperatorKind::Source(source)) => Some(source),
        _ => None,
    });
    sources.flat_map(|source| source.leaves.iter().map(|leaf| leaf.path.join("."))).collect()
}

const TUMBLE: &str = "SELECT auction, window_start, COUNT(*) AS n, SUM(price) AS total
FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND))
WHERE price > 1000 GROUP BY auction, window_start, window_end";
const TUMBLE_SINK: &str = "auction BIGINT, window_start TIMESTAMP(3), n BIGINT, total BIGINT";

#[test]
fn a_source_reads_only_what_is_used() {
    let plan = plan(&job(
        "auction BIGINT, price BIGINT",
        "SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0",
    ));

    assert_eq!(ids(&plan), ["out/events/source", "out/out/calc", "out/out/sink"]);
    assert_eq!(
        leaves(&plan),
        ["event_type", "bid.auction", "bid.price", "person.dateTime", "auction.dateTime", "bid.dateTime"]
    );
}

#[test]
fn what_has_values_of_chance_is_made_once_and_keeps_its_event_time() {
    let text = job(TUMBLE_SINK, &TUMBLE.replace("TABLE bid", "TABLE numbered"));
    let view = "CREATE VIEW numbered AS SELECT *, UUID() AS id FROM bid;\nINSERT INTO";
    let plan = compile(&text.replacen("INSERT INTO", view, 1)).unwrap();

    let found = ids(&plan);
    let calc = found.iter().position(|id| *id == "out/bid/calc").unwrap_or_else(|| panic!("{found:?}"));
    assert!(found[calc..].iter().any(|id| id.ends_with("/tumble")), "{found:?}");
}

#[test]
fn a_window_aggregate_is_split_around_the_exchange() {
    let plan = plan(&job(TUMBLE_SINK, TUMBLE));

    assert_eq!(
        ids(&plan),
        [
            "out/events/source",
            "out/bid/calc",
            "out/bid/tumble-local",
            "out/bid/tumble",
            "out/out/calc",
            "out/out/sink"
        ]
    );
    let exchanges: Vec<_> = plan.edges.iter().filter(|edge| edge.hash.is_some()).collect();
    assert_eq!(exchanges.len(), 1);
    assert_eq!((exchanges[0].from, exchanges[0].to), (2, 3));
    assert_eq!(exchanges[0].hash.as_ref().unwrap().columns, [1]);
}

#[test]
fn windows_of_the_older_form_are_those_of_the_newer() {
    let pairs = [
        (
            "auction BIGINT, s TIMESTAMP(3), n BIGINT",
            "SELECT b.auction, TUMBLE_START(b.`dateTime`, INTERVAL '10' SECOND), COUNT(*) FROM bid AS b WHERE price > 5
             GROUP BY TUMBLE(b.`dateTime`, INTERVAL '10' SECOND), b.auction HAVING MAX(price) > 7",
            "SELECT b.auction, window_start, COUNT(*)
             FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND)) AS b WHERE price > 5
             GROUP BY b.auction, window_start, window_end HAVING MAX(price) > 7",
        ),
        (
            "m BIGINT, e TIMESTAMP(3), t TIMESTAMP(3)",
            "SELECT MAX(price) + 1, HOP_END(`dateTime`, INTERVAL '1' SECOND, INTERVAL '1' MINUTE),
             HOP_ROWTIME(`dateTime`, INTERVAL '1' SECOND, INTERVAL '1' MINUTE) FROM bid
             GROUP BY HOP(`dateTime`, INTERVAL '1' SECOND, INTERVAL '1' MINUTE)",
            "SELECT MAX(price) + 1, window_end, window_time
             FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND, INTERVAL '1' MINUTE))
             GROUP BY window_start, window_end, window_time",
        ),
        (
            "bidder BIGINT, n BIGINT",
            "SELECT bidder, COUNT(*) FROM bid GROUP BY bidder, SESSION(`dateTime`, INTERVAL '1' SECOND)",
            "SELECT bidder, COUNT(*)
             FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND))
             GROUP BY bidder, window_start, window_end",
        ),
        // Windows over windows, in either form.
        (
            "n BIGINT",
            "WITH one AS (SELECT HOP_ROWTIME(`dateTime`, INTERVAL '1' SECOND, INTERVAL '2' SECOND) AS t, COUNT(*) AS n FROM bid
             GROUP BY HOP(`dateTime`, INTERVAL '1' SECOND, INTERVAL '2' SECOND))
             SELECT SUM(n) FROM TABLE(TUMBLE(TABLE one, DESCRIPTOR(t), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end",
            "WITH one AS (SELECT window_time AS t, COUNT(*) AS n
             FROM TABLE(HOP(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND, INTERVAL '2' SECOND))
             GROUP BY window_start, window_end, window_time)
             SELECT SUM(n) FROM one GROUP BY TUMBLE(t, INTERVAL '1' MINUTE)",
        ),
    ];
    for (sink, older, newer) in pairs {
        assert_eq!(plan(&job(sink, older)), plan(&job(sink, newer)), "{older}");
    }
    // What is filtered out extends no session.
    let filtered = plan(&job(
        "n BIGINT",
        "SELECT COUNT(*) FROM bid WHERE price > 5 GROUP BY SESSION(`dateTime`, INTERVAL '1' SECOND)",
    ));
    let calc = filtered.operators.iter().find_map(|operator| match &operator.kind {
        Some(OperatorKind::Calc(calc)) => Some((operator.id.as_str(), calc.filter.is_some())),
        _ => None,
    });
    assert_eq!(calc, Some(("out/bid/calc", true)));
}

#[test]
fn operator_ids_follow_the_users_names_alone() {
    let before = job(TUMBLE_SINK, TUMBLE);
    let original: Vec<String> = ids(&plan(&before)).iter().map(|id| (*id).to_owned()).collect();
    let changes = [
        (
            "white space and a comment",
            before.replace("SELECT auction, window_start", "SELECT -- why\n  auction,\n window_start"),
        ),
        ("a literal in a filter", before.replace("price > 1000", "price > 2000 AND price < 5")),
        (
            "a further INSERT",
            format!(
                "{before}\nCREATE TABLE other (a BIGINT) WITH ('connector'='print');\nINSERT INTO other SELECT auction FROM bid;"
            ),
        ),
        ("an option", before.replace("'connector' = 'print'", "'connector' = 'blackhole'")),
    ];
    for (change, sql) in changes {
        assert!(
            ids(&plan(&sql)).starts_with(&original.iter().map(String::as_str).collect::<Vec<_>>()),
            "{change}"
        );
    }
}

#[test]
fn cosmetic_changes_give_an_equal_plan() {
    let before = job(TUMBLE_SINK, TUMBLE);
    let after = before.replace('\n', "\n\n  ").replace("GROUP BY", "group  by /* keys */");

    assert_eq!(plan(&before), plan(&after));
    assert_ne!(plan(&before), plan(&before.replace("1000", "1001")));
}

#[test]
fn two_inserts_into_one_table_are_told_apart() {
    let sql =
        format!("{}\nINSERT INTO out SELECT bidder FROM bid;", job("a BIGINT", "SELECT auction FROM bid"));

    let plan = plan(&sql);

    assert_eq!(
        ids(&plan),
        [
            "out/events/source",
            "out/out/calc",
            "out/out/sink",
            "out/events/source/2",
            "out/out/calc/2",
            "out/out/sink/2"
        ]
    );
}

#[test]
fn queries_of_this_release_compile() {
    let cases = [
        ("a BIGINT, p DECIMAL(24, 3)", "SELECT auction, 0.908 * price FROM bid"),
        ("d STRING", "SELECT DATE_FORMAT(`dateTime`, 'yyyy-MM-dd') FROM bid"),
        (
            "c STRING",
            "SELECT CASE LOWER(channel) WHEN 'apple' THEN '0' ELSE REGEXP_EXTRACT(url, 'x=(.*)', 1) END FROM bid",
        ),
        (
            "s STRING",
            "SELECT SPLIT_INDEX(url, '/', 3) FROM bid WHERE channel IN ('a', 'b') AND url LIKE 'http%'",
        ),
        ("c INT", "SELECT CHAR_LENGTH(extra) - CHAR_LENGTH(REPLACE(extra, 'c', '')) FROM bid"),
        (
            "t STRING",
            "SELECT CASE WHEN HOUR(`dateTime`) BETWEEN 8 AND 18 THEN 'day' ELSE 'night' END FROM bid",
        ),
        ("id BIGINT", "WITH young AS (SELECT id FROM person WHERE id > 5) SELECT id FROM young"),
        ("id BIGINT", "SELECT x.id FROM (SELECT id FROM person) AS x"),
        ("a BIGINT, m INT", "SELECT DISTINCT auction, MOD(bidder, 7) FROM bid"),
        ("a BIGINT", "SELECT auction FROM bid UNION ALL SELECT id FROM auction WHERE category = 11"),
        ("a BIGINT", "SELECT auction FROM bid UNION SELECT id FROM auction"),
        (
            "n BIGINT, m BIGINT",
            "SELECT COUNT(*) FILTER (WHERE price > 5), COUNT(DISTINCT bidder) FROM bid GROUP BY auction",
        ),
        ("c INT", "SELECT CAST(price AS INT) FROM bid WHERE bid.channel IS NOT NULL"),
        (
            "n BIGINT",
            "SELECT COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND))
             GROUP BY auction, window_start, window_end HAVING SUM(price) > 100",
        ),
    ];
    for (sink, query) in cases {
        plan(&job(sink, query));
    }
}

#[test]
fn a_union_runs_every_branch_to_where_its_rows_are_needed() {
    let union = "SELECT who, COUNT(*) AS n FROM (SELECT bidder AS who FROM bid UNION ALL SELECT seller FROM auction) AS w GROUP BY who";

    let plan = plan(&job("who BIGINT, n BIGINT", union));

    let exchanges: Vec<_> = plan.edges.iter().filter(|edge| edge.hash.is_some()).collect();
    assert_eq!(exchanges.len(), 2);
    assert_eq!(exchanges[0].to, exchanges[1].to);
    assert_eq!(plan.operators[exchanges[0].to as usize].id, "out/bid/group");
}

#[test]
fn only_null_is_not_counted() {
    let counted = |what: &str| {
        let query = TUMBLE.replace("COUNT(*)", &format!("COUNT({what})"));
        let plan = plan(&job(TUMBLE_SINK, &query));
        let argument = plan.operators.iter().find_map(|operator| match &operator.kind {
            Some(OperatorKind::WindowAggregate(aggregate)) => Some(aggregate.aggregates[0].argument),
            _ => None,
        });
        argument.unwrap()
    };

    assert_eq!((counted("*"), counted("1")), (None, None));
    assert!(counted("NULL").is_some() && counted("auction").is_some());
}

#[test]
fn rows_by_key_come_to_one_writer_in_order() {
    let columns = "a BIGINT, b STRING, n BIGINT, PRIMARY KEY (a, b) NOT ENFORCED";
    let job = |query: &str| {
        format!("{SETUP}\nCREATE TABLE out ({columns}) WITH ({UPSERT});\nINSERT INTO out {query};")
    };
    let into_sink = |query: &str| {
        let plan = plan(&job(query));
        let sink = plan.operators.iter().position(|operator| operator.id == "out/out/sink").unwrap();
        let hashes: Vec<_> =
            plan.inputs(sink).map(|edge| edge.hash.clone().map(|hash| hash.columns)).collect();
        hashes
    };
    // Grouped by the very key: its subtask already has all changes of it.
    let grouped = "SELECT auction, url, COUNT(*) FROM bid GROUP BY url, auction";
    assert_eq!(into_sink(grouped), [None]);
    assert_eq!(into_sink(&format!("{grouped} HAVING COUNT(*) > 1")), [None]);
    // Only added: brought to where the key is.
    let added = "SELECT auction, url, price FROM bid";
    assert_eq!(into_sink(added), [Some(vec![0, 1])]);
    assert_eq!(into_sink(&format!("{added} UNION ALL {added}")), [Some(vec![0, 1]), Some(vec![0, 1])]);

    let refused = [
        "SELECT auction, 'x', COUNT(*) FROM bid GROUP BY auction",
        "SELECT auction % 2, url, COUNT(*) FROM bid GROUP BY auction, url",
        "SELECT auction, url, COUNT(*) FROM bid GROUP BY auction, url, channel",
    ];
    for query in refused {
        let found = compile(&job(query)).expect_err(query);
        assert!(
            found[0].message.contains("has to find them by its PRIMARY KEY (a, b)"),
            "{query}: {found:?}"
        );
        assert!(found[0].line > 0, "{query}");
    }
}

#[test]
fn the_list_of_functions_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/functions.md");
    let wanted = millrace_sql::functions::reference();
    if std::env::var_os("MILLRACE_REGENERATE").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    assert!(std::fs::read_to_string(path).is_ok_and(|found| found == wanted), "run `make generate`");
}

#[test]
fn columns_without_a_name_and_repeated_ones_are_named_as_flink_names_them() {
    let tables = "CREATE TABLE t (d DECIMAL(5, 2), n INT) WITH ('connector' = 'filesystem', 'path' = '/t', 'format' = 'json');
                  CREATE TABLE out (a DECIMAL(5, 2), b STRING, c DECIMAL(5, 2), e INT) WITH ('connector' = 'print');";
    let all = "SELECT d, CAST(d AS STRING), d, n + 1 FROM t";

    plan(&format!("{tables} INSERT INTO out {all};"));
    plan(&format!(
        "{tables} CREATE VIEW v AS {all}; INSERT INTO out SELECT d, `EXPR$1`, d0, `EXPR$3` FROM v;"
    ));
    plan(&format!(
        "{tables} CREATE VIEW v (a, b, c, e) COMMENT 'all' AS {all}; INSERT INTO out SELECT a, b, c, e FROM v;"
    ));

    let short = compile(&format!(
        "{tables} CREATE VIEW v (a, b) AS {all}; INSERT INTO out SELECT a, b, a, 1 FROM v;"
    ));
    let message = short.unwrap_err()[0].to_string();
    assert!(message.ends_with("the query has 4 columns, and the list of 'v' names 2"), "{message}");
    let wrong = compile(&format!("{tables} INSERT INTO out SELECT d, n, d, n + 1 FROM t;")).unwrap_err();
    assert_eq!(wrong[0].hint.as_deref(), Some("write CAST(n AS STRING)"));
    let wrong = compile(&format!("{tables} INSERT INTO out SELECT d, n + 1, d, n FROM t;")).unwrap_err();
    assert_eq!(wrong[0].hint.as_deref(), Some("write CAST(… AS STRING) around column 2 of the query"));
}

#[test]
fn a_part_of_the_query_can_be_windowed() {
    let view = format!(
        "{SETUP}\nCREATE TABLE out ({TUMBLE_SINK}) WITH ('connector' = 'print');\nCREATE VIEW dear AS SELECT * FROM bid WHERE price > 5;\nINSERT INTO out {};",
        TUMBLE.replace("TABLE bid", "TABLE dear")
    );
    let part = format!(
        "{SETUP}\nCREATE TABLE out ({TUMBLE_SINK}) WITH ('connector' = 'print');\nINSERT INTO out WITH most AS (SELECT * FROM bid), dear AS (SELECT * FROM most WHERE price > 5) {};",
        TUMBLE.replace("TABLE bid", "TABLE dear")
    );

    assert_eq!(plan(&part), plan(&view));
}

#[test]
fn what_exists_is_left_as_it_is_if_the_statement_says_so() {
    let table = |name: &str| {
        format!("CREATE TABLE IF NOT EXISTS {name} (x BIGINT) WITH ('connector' = 'blackhole');")
    };
    let source =
        "CREATE TABLE a (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'json');";
    let view = "CREATE VIEW IF NOT EXISTS v AS SELECT x FROM a;";
    let insert = "INSERT INTO b SELECT x FROM v;";

    let once = plan(&format!("{source}{}{view}{insert}", table("b")));
    let again = "CREATE VIEW IF NOT EXISTS v AS SELECT x + 1 AS x FROM a;";

    assert_eq!(
        plan(&format!(
            "{source}{}{view}{}{}{again}{insert}",
            table("b"),
            source.replace("TABLE", "TABLE IF NOT EXISTS"),
            table("b")
        )),
        once
    );
}

#[test]
fn a_statement_set_is_its_inserts() {
    let tables = "CREATE TEMPORARY TABLE a (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'json');
                  CREATE TABLE b (x BIGINT) WITH ('connector' = 'blackhole');
                  CREATE TABLE c (x BIGINT) WITH ('connector' = 'blackhole');";
    let inserts = "INSERT INTO b SELECT x FROM a; INSERT INTO c SELECT x FROM a;";
    let plain = plan(&format!("{tables}{inserts}"));
    for set in [
        format!("EXECUTE STATEMENT SET BEGIN {inserts} END;"),
        format!("BEGIN STATEMENT SET; {inserts} END"),
        format!("execute statement set\nbegin\n{inserts}\nend;\n"),
    ] {
        assert_eq!(plan(&format!("{tables}{set}")), plain, "{set}");
    }
    let mistakes = [
        (format!("EXECUTE STATEMENT SET BEGIN {inserts}"), "the statement set has no END"),
        (format!("{inserts} END;"), "END without a statement set"),
        (
            format!("EXECUTE STATEMENT SET BEGIN CREATE VIEW v AS SELECT x FROM a; {inserts} END;"),
            "and CREATE is none",
        ),
        (
            format!("BEGIN STATEMENT SET; BEGIN STATEMENT SET; {inserts} END;"),
            "a statement set within another one",
        ),
    ];
    for (set, expected) in mistakes {
        let found = compile(&format!("{tables}{set}")).expect_err(&set);
        assert!(found.iter().any(|mistake| mistake.message.contains(expected)), "{set}: {found:?}");
    }
}

//! The planner seen from outside: texts in, plans or mistakes out.

use millrace_sql::plan::{OperatorKind, Plan};
use millrace_sql::{Diagnostic, compile};

const SETUP: &str = include_str!("../../tests/nexmark/setup.sql");

fn job(sink: &str, query: &str) -> String {
    format!("{SETUP}\nCREATE TABLE out ({sink}) WITH ('connector' = 'print');\nINSERT INTO out {query};")
}

fn plan(sql: &str) -> Plan {
    compile(sql).unwrap_or_else(|mistakes| panic!("{}", rendered(sql, &mistakes)))
}

fn rendered(sql: &str, mistakes: &[Diagnostic]) -> String {
    mistakes.iter().map(|mistake| mistake.render(sql)).collect::<Vec<_>>().join("\n")
}

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
fn mistakes_are_shown_where_they_are() {
    let cases = [
        ("SELECT auktion FROM bid", "1:8+7 there is no column 'auktion'", Some("did you mean `auction`?")),
        ("SELECT auction FROM bids", "1:21+4 there is no table or view 'bids'; did you mean `bid`?", None),
        (
            "SELECT SPLIT_INDX(url, '/', 1) FROM bid",
            "1:8+10 there is no function 'SPLIT_INDX'",
            Some("did you mean SPLIT_INDEX?"),
        ),
        (
            "SELECT a.id FROM person a JOIN person b ON a.id = b.id",
            "1:27+4 JOIN is not supported yet",
            Some("read from one table or view"),
        ),
        ("SELECT auction FROM bid ORDER BY price", "1:25+5 ORDER BY is not supported yet", None),
        (
            "SELECT auction FROM bid INTERSECT SELECT id FROM auction",
            "1:25+9 INTERSECT is not supported yet",
            None,
        ),
        ("SELECT COUNT(*) OVER (PARTITION BY auction) FROM bid", "1:17+4 OVER is not supported yet", None),
        (
            "SELECT channel FROM bid",
            "1:8+7 the column 'a' of 'out' is BIGINT, the query gives STRING",
            Some("write CAST(channel AS BIGINT)"),
        ),
        (
            "SELECT auction, price FROM bid",
            "0:13+3 the query has 2 columns, and 1 of 'out' are to be written",
            Some("they are: a BIGINT"),
        ),
        ("SELECT auction FROM bid WHERE", "1:30+1 expected an expression, found EOF", None),
        (
            "SELECT auction FROM TABLE(SESSION(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND))",
            "1:41+3 SESSION without GROUP BY window_start, window_end is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(price), INTERVAL '1' SECOND)) GROUP BY auction, window_start, window_end",
            "1:56+5 'price' is not an event-time column of 'bid': no WATERMARK is declared on it",
            None,
        ),
        (
            "SELECT auction FROM TABLE(TUMBLE(TABLE bit, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)) GROUP BY auction",
            "1:40+3 there is no table or view 'bit'",
            Some("did you mean `bid`?"),
        ),
        (
            "SELECT auction FROM bid TABLESAMPLE BERNOULLI (5)",
            "1:25+11 TABLESAMPLE is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM bid /*+ OPTIONS('scan.startup.mode' = 'latest-offset') */",
            "1:25+53 a hint is not supported yet",
            Some("remove it; options belong to CREATE TABLE … WITH"),
        ),
        ("SELECT auction FROM bid FOR UPDATE", "1:25+3 FOR UPDATE is not supported yet", None),
        ("SELECT auction FROM bid SETTINGS a = 1", "1:25+8 SETTINGS is not supported yet", None),
        (
            "SELECT auction FROM bid FOR SYSTEM_TIME AS OF `dateTime`",
            "1:25+3 FOR SYSTEM_TIME AS OF is not supported yet",
            Some("read the table as it is"),
        ),
        ("SELECT auction FROM bid LIMIT 5", "1:25+5 LIMIT is not supported yet", None),
        ("SELECT auction FROM bid, person", "1:16+4 a join is not supported yet", None),
        (
            "WITH RECURSIVE r AS (SELECT auction FROM bid) SELECT auction FROM r",
            "1:6+9 WITH RECURSIVE is not supported yet",
            None,
        ),
        ("VALUES (1)", "1:1+6 expected SELECT, found 'VALUES'", None),
        (
            "SELECT auction FROM bid WHERE auction IN (SELECT id FROM auction)",
            "1:43+6 a subquery in an expression is not supported yet",
            Some("use a view"),
        ),
        (
            "SELECT COUNT(DISTINCT bidder) FROM TABLE(SESSION(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)) GROUP BY window_start, window_end",
            "1:14+8 an aggregate of DISTINCT values in a SESSION is not supported yet",
            None,
        ),
        (
            "SELECT COUNT(*) FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, channel, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)) GROUP BY bidder, window_start, window_end",
            "1:122+5 a SESSION is grouped by the columns of its PARTITION BY (bidder, channel), window_start and window_end, and by no others",
            None,
        ),
        (
            "SELECT COUNT(*) FROM TABLE(SESSION(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)) GROUP BY bidder, window_start, window_end",
            "1:93+5 a SESSION without PARTITION BY is grouped by window_start and window_end alone; write SESSION(TABLE t PARTITION BY key, …) for sessions of each key",
            None,
        ),
        (
            "SELECT COUNT(*) FROM TABLE(SESSION(TABLE bid PARTITION BY biddr, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND)) GROUP BY window_start, window_end",
            "1:59+5 'bid' has no column 'biddr'",
            Some("did you mean `bidder`?"),
        ),
        (
            "SELECT COUNT(*) FROM TABLE(SESSION(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '0' SECOND)) GROUP BY window_start, window_end",
            "1:71+8 the gap between sessions is longer than zero",
            Some("write a length such as INTERVAL '10' SECOND"),
        ),
        (
            "SELECT MAX(n) FROM (SELECT COUNT(*) AS n FROM bid GROUP BY auction) AS c",
            "1:8+3 MAX over rows that change is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM bid GROUP BY GROUPING SETS ((auction), (price))",
            "1:34+8 GROUPING SETS is not supported yet",
            None,
        ),
        (
            "SELECT COUNT(*) FROM TABLE(CUMULATE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '2' SECOND, INTERVAL '5' SECOND)) GROUP BY window_start, window_end",
            "1:72+8 the size of a CUMULATE window is a multiple of its step",
            Some("the order is CUMULATE(TABLE t, DESCRIPTOR(ts), step, size)"),
        ),
        (
            "SELECT auction FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '1' SECOND))",
            "1:40+3 TUMBLE without GROUP BY window_start, window_end is not supported yet",
            None,
        ),
        (
            "SELECT EXTRACT(MILLENNIUM FROM `dateTime`) FROM bid",
            "1:16+10 EXTRACT of MILLENNIUM is not supported yet",
            Some("the units are YEAR, QUARTER, MONTH, WEEK, DAY, DOW, DOY, HOUR, MINUTE and SECOND"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY TUMBLE(`dateTime`, 5)",
            "1:35+20 TUMBLE does not take these arguments",
            Some("write TUMBLE(ts, INTERVAL '1' MINUTE), with the size"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY HOP(`dateTime`, INTERVAL '2' SECOND, INTERVAL '1' SECOND)",
            "1:35+49 a HOP window slides by at most its size",
            Some("write HOP(ts, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE), with slide and size"),
        ),
        (
            "SELECT TUMBLE_END(`dateTime`, INTERVAL '2' SECOND) FROM bid GROUP BY TUMBLE(`dateTime`, INTERVAL '1' SECOND)",
            "1:8+35 TUMBLE_END is of another window than GROUP BY has",
            Some("give it the same arguments as there"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY MOD(bidder, 7), SESSION(`dateTime`, INTERVAL '1' SECOND)",
            "1:35+13 a SESSION in GROUP BY stands beside columns, and not beside expressions",
            Some("compute the expression in a view, and group by its column"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY TUMBLE(price, INTERVAL '1' SECOND)",
            "1:42+5 'price' is not an event-time column of 'bid': no WATERMARK is declared on it",
            None,
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY TUMBLE(prise, INTERVAL '1' SECOND)",
            "1:42+5 'bid' has no column 'prise'",
            Some("did you mean `price`?"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY MAP[channel, price]",
            "1:26+5 a key of the type MAP<STRING, BIGINT> is not supported",
            None,
        ),
        (
            "SELECT ARRAY[auction, channel][1] FROM bid WHERE CARDINALITY(auction) = 1",
            "1:50+11 the arguments of 'CARDINALITY' do not fit",
            Some("write CARDINALITY(array or map)"),
        ),
        ("SELECT COUNT(DISTINCT *) FROM bid", "1:1+6 COUNT(DISTINCT *) is not supported", None),
        (
            "SELECT *, auction FROM bid",
            "1:11+7 the column 'auction' occurs twice",
            Some("rename one of them with AS; `*` has all columns already"),
        ),
        ("SELECT autcion FROM bid", "1:8+7 there is no column 'autcion'", Some("did you mean `auction`?")),
        (
            "SELECT auction FROM bid WHERE DATE_FORMAT(`dateTime`, 'yyyy-nn') = url",
            "1:55+9 'yyyy-nn' has the letter 'n', which patterns of times do not know; they know yuQMdDEaHkKhmsS, and texts in quotes",
            None,
        ),
        (
            "SELECT auction FROM bid WHERE REGEXP(url, '(a')",
            "1:43+4 '(a' is not a regular expression: unclosed group",
            None,
        ),
        (
            "SELECT auction FROM bid WHERE url SIMILAR TO 'a%'",
            "1:35+7 SIMILAR TO is not supported yet",
            Some("use REGEXP(value, 'pattern') with a Java regular expression"),
        ),
        ("SELECT auction FROM bid WHERE url ILIKE 'a%'", "1:35+5 ILIKE is not supported yet", None),
        (
            "SELECT auction FROM bid WHERE url LIKE 'a%' ESCAPE '%'",
            "1:45+6 LIKE … ESCAPE is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM bid WHERE CAST(`dateTime` AS DATE) > DATE '2024-02-30'",
            "1:63+12 CAST: '2024-02-30' is not a value of the type DATE; TRY_CAST makes NULL of such texts",
            None,
        ),
        (
            "SELECT auction FROM bid WHERE `dateTime` < CURRENT_TIMESTAMP",
            "1:44+17 CURRENT_TIMESTAMP is not supported yet",
            None,
        ),
        (
            "SELECT COUNT(DISTINCT auction, bidder) FROM bid",
            "1:8+5 the arguments of 'COUNT' do not fit",
            Some("COUNT takes one value; of several, write COUNT(DISTINCT CONCAT_WS(',', a, b))"),
        ),
        (
            "SELECT auction, price FROM bid GROUP BY auction",
            "1:17+5 the column 'price' is neither grouped nor aggregated",
            Some("add it to GROUP BY, or say which one is meant: MAX(price)"),
        ),
        (
            "SELECT \"auction\" FROM bid",
            "1:8+9 a name in double quotes",
            Some("quote names with back quotes: `name`"),
        ),
    ];
    let mut wrong = Vec::new();
    for (query, expected, hint) in cases {
        let sink = "a BIGINT";
        let before =
            format!("{SETUP}\nCREATE TABLE out ({sink}) WITH ('connector' = 'print');\nINSERT INTO out");
        let first_line = before.lines().count() as u64;
        let sql = format!("{before}\n{query}");
        let mistakes = compile(&sql).expect_err(query);
        let found = &mistakes[0];
        let place = format!(
            "{}:{}+{} {}",
            found.line as i64 - first_line as i64,
            found.column,
            found.length,
            found.message
        );
        let is_right =
            place == expected && (hint.is_none() || found.hint.as_deref() == hint) && mistakes.len() == 1;
        if !is_right {
            wrong.push(format!(
                "{query}\n  expected {expected} ({hint:?})\n  found    {place} ({:?})\n  {}",
                found.hint,
                mistakes.len()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_table_cannot_say_yet_is_refused_by_name() {
    let cases = [
        ("x BIGINT", " PARTITIONED BY (x)", "line 1, column 27: PARTITIONED BY is not supported yet"),
        ("x BIGINT METADATA", "", "line 1, column 26: METADATA columns are not supported yet"),
    ];
    for (columns, after, expected) in cases {
        let sql = format!("CREATE TABLE a ({columns}){after} WITH ('connector' = 'print');");

        let mistakes = compile(&sql).unwrap_err();

        assert_eq!(mistakes[0].to_string(), expected);
        assert!(mistakes[0].hint.is_some(), "{expected}");
    }
}

#[test]
fn options_are_judged_also_where_the_statement_is_wrong() {
    let sql = "CREATE TABLE a (x BIGINT) WITH ('connector' = 'filesystem', 'path' = '/a', 'format' = 'xml');
CREATE TABLE b (x BIGINT) WITH ('connector' = 'blackhole', 'colour' = 'dark');
INSERT INTO b SELECT y FROM a;";

    let found: Vec<String> = compile(sql).unwrap_err().iter().map(ToString::to_string).collect();

    assert_eq!(
        found,
        [
            "line 1, column 76: table 'a': the option 'format' = 'xml' is not supported",
            "line 2, column 60: table 'b': the option 'colour' is not known here",
            "line 3, column 22: there is no column 'y'",
        ]
    );
}

#[test]
fn what_changes_goes_only_where_changes_are_taken() {
    let sql = |sink: &str, query: &str| {
        format!("{SETUP}\nCREATE TABLE out (a BIGINT, n BIGINT) WITH ({sink});\nINSERT INTO out {query};")
    };
    let files = "'connector' = 'filesystem', 'path' = '/out', 'format' = 'json'";
    let counts = "SELECT auction, COUNT(*) FROM bid GROUP BY auction";

    let refused = compile(&sql(files, counts)).unwrap_err();
    let said = refused[0].to_string();
    assert!(
        said.contains(
            "'out' can only add rows; group by a window, or write to upsert-kafka, print, blackhole"
        ),
        "{said}"
    );
    assert!(refused[0].line > 0);

    // Rows that are only counted out once never change.
    plan(&sql(files, "SELECT DISTINCT auction, bidder FROM bid"));
    plan(&sql("'connector' = 'print'", counts));
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
fn all_mistakes_of_a_text_are_found_at_once() {
    let sql = "CREATE TABLE a (x BIGINT, y MULTISET<INT>) WITH ('connector' = 'print');\nDROP TABLE a;\n";

    let mistakes = compile(sql).unwrap_err();

    assert_eq!(
        rendered(sql, &mistakes),
        "line 1, column 29: the type 'MULTISET' is not supported\n 1 | CREATE TABLE a (x BIGINT, y MULTISET<INT>) WITH ('connector' = 'print');\n   |                             ^^^^^^^^\n   hint: use BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), STRING, BYTES, DATE, TIME, TIMESTAMP(p), TIMESTAMP_LTZ(p), ROW<…>, ARRAY<…> or MAP<…>\nline 2, column 1: the statement DROP is not supported\n 2 | DROP TABLE a;\n   | ^^^^\n   hint: there are CREATE TABLE, CREATE VIEW, INSERT INTO … SELECT, and SELECT in `millrace sql`"
    );
}

#[test]
fn a_text_without_insert_is_refused() {
    let mistakes = compile(SETUP).unwrap_err();

    assert_eq!(mistakes[0].message, "the SQL has no INSERT INTO, so the job would do nothing");
}

const UPSERT: &str = "'connector' = 'upsert-kafka', 'topic' = 't', 'bootstrap.servers' = 'b:9092', 'key.format' = 'json', 'value.format' = 'json'";

#[test]
fn a_primary_key_is_of_columns_that_are_written_and_says_that_nothing_enforces_it() {
    let cases = [
        ("a BIGINT PRIMARY KEY NOT ENFORCED, n BIGINT", None),
        ("a BIGINT, n BIGINT, CONSTRAINT pk PRIMARY KEY (a) NOT ENFORCED", None),
        (
            "a BIGINT, PRIMARY KEY (a)",
            Some("line 1, column 44: a PRIMARY KEY is not checked against what is outside"),
        ),
        (
            "a BIGINT, PRIMARY KEY (b) NOT ENFORCED",
            Some("line 1, column 42: there is no column 'b' for the PRIMARY KEY"),
        ),
        (
            "a BIGINT, PRIMARY KEY (a, a) NOT ENFORCED",
            Some("line 1, column 45: 'a' is in the PRIMARY KEY twice"),
        ),
        ("a BIGINT, c AS a + 1, PRIMARY KEY (c) NOT ENFORCED", Some("line 1, column 54: 'c' is computed")),
        (
            "a BIGINT PRIMARY KEY NOT ENFORCED, PRIMARY KEY (a) NOT ENFORCED",
            Some("line 1, column 54: a table has one PRIMARY KEY at most"),
        ),
        ("a BIGINT, UNIQUE (a)", Some("line 1, column 29: UNIQUE is not supported")),
        ("a BIGINT", Some("line 1, column 14: table 'out': 'upsert-kafka' needs a PRIMARY KEY")),
    ];
    for (columns, expected) in cases {
        let sql = format!("CREATE TABLE out ({columns}) WITH ({UPSERT});");
        // Nothing is written to it, which is a mistake of its own.
        let found = compile(&sql).err().unwrap_or_default();
        let found: Vec<_> = found.iter().filter(|mistake| !mistake.message.contains("INSERT INTO")).collect();
        match expected {
            None => assert!(found.is_empty(), "{columns}: {found:?}"),
            Some(expected) => {
                assert!(found[0].to_string().starts_with(expected), "{columns}: {found:?}");
                assert!(
                    found[0].hint.is_some() || expected.contains("one") || expected.contains("twice"),
                    "{columns}"
                );
            }
        }
    }
    let in_vain = "CREATE TABLE out (a BIGINT, PRIMARY KEY (a) NOT ENFORCED) WITH ('connector' = 'print');";
    let found = compile(in_vain).unwrap_err();
    assert!(
        found.iter().any(|found| found.message.contains("'print' has no use for a PRIMARY KEY")),
        "{found:?}"
    );
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

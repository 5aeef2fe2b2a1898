//! Texts that are refused: where, why, and what to write instead.

use millrace_sql::compile;

use super::{SETUP, UPSERT, plan, rendered};

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
        (
            "SELECT auction, FROM bid",
            "1:15+1 a comma before FROM, where something of the list should come",
            Some("remove the comma, or write what is missing"),
        ),
        (
            "SELECT auction FROM bid WHERE CAST(`dateTime` AS TIMESTAMP WITH TIME ZONE) IS NULL",
            "1:50+9 CAST to TIMESTAMP WITH TIME ZONE is not supported yet",
            Some("use TIMESTAMP_LTZ, a point in time"),
        ),
        (
            "SELECT auction FROM bid WHERE CAST(`dateTime` AS TIMESTAMP(10)) IS NULL",
            "1:50+9 CAST to TIMESTAMP(10) is not supported yet",
            Some("give 0 to 9 digits of a second"),
        ),
        (
            "SELECT auction FROM bid WHERE CONVERT_TZ(url, 'UTC', 'Mars') IS NULL",
            "1:54+6 there is no time zone 'Mars'; it is a name such as 'Europe/Berlin', or a difference such as 'GMT+02:00'",
            None,
        ),
        (
            "SELECT auction DIV 2 FROM bid",
            "1:16+3 the operator DIV is not supported",
            Some("write /: the quotient of whole numbers is a whole number"),
        ),
        (
            "SELECT auction div FROM bid",
            "1:16+3 'div' is no operator",
            Some("put a comma or an operator before it, or AS if it is a name"),
        ),
        (
            "SELECT (auction) DIV (price) FROM bid",
            "1:18+3 the operator DIV is not supported",
            Some("write /: the quotient of whole numbers is a whole number"),
        ),
        (
            "SELECT price FROM bid WHERE price BETWEEN SYMMETRIC 3 AND 1",
            "1:43+9 BETWEEN SYMMETRIC is not supported yet",
            Some("write BETWEEN LEAST(a, b) AND GREATEST(a, b)"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY ()",
            "1:26+5 GROUP BY () is not supported yet",
            Some("remove it: without GROUP BY aggregates are of all rows"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY (auction, bidder)",
            "1:26+5 a list in parentheses in GROUP BY is not supported yet",
            Some("write GROUP BY a, b"),
        ),
        (
            "SELECT url.* FROM bid",
            "1:8+3 there is no table 'url' here, and url.* of a ROW is not supported yet",
            Some("name the fields of a ROW: url.field, …"),
        ),
        (
            "SELECT auction FROM bid WHERE ROW(auction, price) < ROW(1, 2)",
            "1:51+1 there is no order of ROW<EXPR$0 BIGINT, EXPR$1 BIGINT>",
            Some("compare what is inside of it"),
        ),
        (
            "SELECT auction FROM bid WHERE (auction, price) BETWEEN (1, 2) AND (3, 4)",
            "1:48+7 there is no order of ROW<EXPR$0 BIGINT, EXPR$1 BIGINT>",
            Some("compare what is inside of it"),
        ),
        (
            "SELECT auction FROM bid WHERE ENCODE(url, 'UTF-32') IS NULL",
            "1:43+8 ENCODE: the character set 'UTF-32' is not known; known are UTF-8, UTF-16, UTF-16BE, UTF-16LE, ISO-8859-1 and US-ASCII",
            None,
        ),
        (
            "SELECT MOD(auction, 2,) FROM bid",
            "1:22+1 a comma before ), where something of the list should come",
            Some("remove the comma, or write what is missing"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY auction WITH ROLLUP",
            "1:48+6 WITH ROLLUP is not supported yet",
            Some("write one INSERT INTO for each set"),
        ),
        (
            "SELECT COUNT(*) FROM bid GROUP BY auction WITH CUBE",
            "1:48+4 WITH CUBE is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM (SELECT * FROM bid) AS b TABLESAMPLE BERNOULLI (5)",
            "1:46+11 TABLESAMPLE is not supported yet",
            None,
        ),
        ("SELECT * ILIKE 'a%' FROM bid", "1:10+5 * ILIKE is not supported yet", Some("name the columns")),
        ("SELECT * EXCLUDE (price) FROM bid", "1:10+7 * EXCLUDE is not supported yet", None),
        ("SELECT bid.* EXCEPT (price) FROM bid", "1:14+6 * EXCEPT is not supported yet", None),
        (
            "SELECT auction FROM bid WHERE TRIM(url, 'x') = ''",
            "1:31+4 TRIM with a second argument is not supported yet",
            Some("write TRIM(BOTH 'characters' FROM value), or BTRIM(value, 'characters')"),
        ),
        (
            "SELECT SUM(2)(auction) FROM bid",
            "1:8+1 a second list of arguments of SUM is not supported yet",
            Some("write one list"),
        ),
        (
            "SELECT auction FROM bid WHERE CAST(price AS VARCHAR(3) FORMAT 'x') = ''",
            "1:56+6 CAST with a FORMAT is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM bid WHERE CAST(url AS BINARY(9223372036854775807)) = X'00'",
            "1:43+6 CAST to BINARY(9223372036854775807) is not supported yet",
            Some("give 1 to 65536 bytes, or use BYTES"),
        ),
        (
            "SELECT auction FROM bid WHERE price = 0x10",
            "1:39+4 numbers in hexadecimal digits are not supported",
            Some("write the number in decimal digits, or the bytes as X'10'"),
        ),
        (
            "SELECT auction FROM bid WHERE CAST(price AS BYTES) = X'00'",
            "1:36+5 a value of the type BIGINT cannot be CAST to BYTES",
            Some("the bytes of its text are CAST(CAST(… AS STRING) AS BYTES)"),
        ),
        (
            "SELECT auction FROM bid WHERE `dateTime` AT TIME ZONE 'Europe/Paris' > TIMESTAMP '2020-01-01 00:00:00'",
            "1:42+2 AT TIME ZONE is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM LATERAL (SELECT * FROM bid)",
            "1:21+7 LATERAL is not supported yet",
            Some("read from one table or view"),
        ),
        ("SELECT CAST(url AS MAP<STRING, INT>) FROM bid", "1:20+3 CAST to MAP is not supported yet", None),
        ("SELECT CAST(bid AS ROW<a INT>) FROM bid", "1:20+3 CAST to ROW is not supported yet", None),
        ("SELECT CAST(url AS INTERVAL DAY) FROM bid", "1:20+8 CAST to INTERVAL is not supported yet", None),
        (
            "SELECT JSON_VALUE(url, '$.a' DEFAULT 'x' ON EMPTY) FROM bid",
            "1:42+2 ON EMPTY is not supported yet",
            Some("use COALESCE(…, value)"),
        ),
        (
            "SELECT auction FROM nosuch.bid",
            "1:21+1 there is no table 'nosuch.bid': catalogs and databases are not supported yet",
            Some("name the table alone"),
        ),
        ("SELECT auction & 1 FROM bid", "1:8+1 the operator & is not supported yet", None),
        ("SELECT auction::BIGINT FROM bid", "1:8+1 this form of a cast is not supported yet", None),
        ("SELECT auction FROM bid WHERE url = E'a'", "1:37+1 the literal E'a' is not supported yet", None),
        (
            "SELECT COUNT(*) FILTER (WHERE auction) FROM bid",
            "1:31+7 a condition is BOOLEAN, and this is not",
            None,
        ),
        ("SELECT auction FROM UNNEST(ARRAY[1])", "1:21+6 UNNEST is not supported yet", None),
        ("SELECT auction FROM bid ORDER BY price", "1:25+5 ORDER BY is not supported yet", None),
        (
            "SELECT auction FROM bid INTERSECT SELECT id FROM auction",
            "1:25+9 INTERSECT is not supported yet",
            None,
        ),
        ("SELECT COUNT(*) OVER (PARTITION BY auction) FROM bid", "1:17+4 OVER is not supported yet", None),
        (
            "SELECT auction FROM bid WHERE RAND_INTEGER(9) BETWEEN 1 AND 2",
            "1:31+1 BETWEEN of a value of chance is not supported yet",
            Some("give the value a name in a subquery: … FROM (SELECT RAND() AS r FROM …) AS t"),
        ),
        (
            "SELECT price / NULLIF(1 + RAND_INTEGER(3), 0) FROM bid",
            "1:16+1 NULLIF of a value of chance is not supported yet",
            None,
        ),
        (
            "SELECT RAND_INTEGER(3) FROM (SELECT COUNT(*) AS n FROM bid GROUP BY auction) AS counts",
            "1:8+12 RAND_INTEGER over rows that change is not supported yet",
            None,
        ),
        (
            "SELECT * FROM bid MATCH_RECOGNIZE (ORDER BY dateTime MEASURES A.price AS p PATTERN (A) DEFINE A AS A.price > 1)",
            "1:19+15 MATCH_RECOGNIZE is not supported yet",
            Some("use a window"),
        ),
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
        ("TABLE bid", "1:1+5 expected SELECT, found 'TABLE'", None),
        (
            "VALUES (1, 2), (3)",
            "1:1+6 row 2 of VALUES has 1 values, and the first one has 2",
            Some("give every row as many; NULL where there is none"),
        ),
        (
            "SELECT auction",
            "1:8+7 there is no column 'auction'",
            Some("without FROM there are none; a text has quotes: 'text'"),
        ),
        (
            "SELECT UNIX_TIMESTAMP() FROM (SELECT COUNT(*) FROM bid) AS t",
            "1:8+14 UNIX_TIMESTAMP over rows that change is not supported yet",
            None,
        ),
        ("SELECT NOW(1) FROM bid", "1:8+3 the arguments of 'NOW' do not fit", None),
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
        (
            "SELECT CAST(price AS TIMESTAMP(3)) FROM bid",
            "1:13+5 a value of the type BIGINT cannot be CAST to TIMESTAMP(3)",
            Some(
                "TO_TIMESTAMP_LTZ(…, 3) makes a time of milliseconds since 1970, and TO_TIMESTAMP_LTZ(…, 0) of seconds",
            ),
        ),
        (
            "SELECT price + TRY_CAST(`dateTime` AS BIGINT) FROM bid",
            "1:25+10 a value of the type TIMESTAMP(3) cannot be CAST to BIGINT",
            Some(
                "UNIX_TIMESTAMP(CAST(… AS STRING)) gives the seconds since 1970, and EXTRACT(HOUR FROM …) a part",
            ),
        ),
        (
            "SELECT `dateTime` FROM bid",
            "1:8+10 the column 'a' of 'out' is BIGINT, the query gives TIMESTAMP(3)",
            Some(
                "UNIX_TIMESTAMP(CAST(… AS STRING)) gives the seconds since 1970, and EXTRACT(HOUR FROM …) a part",
            ),
        ),
        (
            "SELECT x FROM (SELECT auction AS window_start, `dateTime` AS x FROM bid) AS t",
            "1:8+1 the column 'a' of 'out' is BIGINT, the query gives TIMESTAMP(3)",
            None,
        ),
        ("SELECT COUNT(DISTINCT *) FROM bid", "1:14+8 COUNT(DISTINCT *) is not supported yet", None),
        (
            "SELECT ABS(price) FILTER (WHERE price > 5) FROM bid",
            "1:19+6 FILTER of ABS is not supported yet",
            None,
        ),
        ("SELECT UPPER(DISTINCT channel) FROM bid", "1:14+8 DISTINCT in UPPER is not supported yet", None),
        (
            "SELECT COUNT(price ORDER BY bidder) FROM bid",
            "1:20+5 ORDER BY in COUNT is not supported yet",
            Some("its result does not depend on an order"),
        ),
        (
            "SELECT auction FROM bid WHERE COUNT(*) > 1",
            "1:25+5 an aggregate cannot be in WHERE: rows are chosen before they are counted",
            Some("filter groups with HAVING, after GROUP BY"),
        ),
        (
            "SELECT SUM(SUM(price)) FROM bid GROUP BY auction",
            "1:16+5 an aggregate cannot be inside of another one",
            Some("compute the inner one in a view, and the outer one over it"),
        ),
        (
            "SELECT auction FROM bid HAVING auction > 1",
            "1:25+6 HAVING is about groups, and this is of a column that is neither grouped nor aggregated",
            Some("use WHERE for conditions on rows, or add the column to GROUP BY"),
        ),
        (
            "SELECT auction FROM bid WHERE price",
            "1:31+5 a condition is BOOLEAN, and 'price' is BIGINT",
            Some("compare it with something, such as IS NOT NULL or <> 0"),
        ),
        ("SELECT auction + channel FROM bid", "1:8+17 there is no BIGINT + STRING", Some("CAST one of them")),
        (
            "SELECT `dateTime` + 1 FROM bid",
            "1:8+10 there is no TIMESTAMP(3) + INT",
            Some("times go with intervals: … + INTERVAL '1' SECOND"),
        ),
        (
            "SELECT auction FROM bid WHERE `dateTime` > 5",
            "1:42+1 there is no comparison TIMESTAMP(3) > INT",
            Some("CAST one of them to the type of the other"),
        ),
        (
            "SELECT auction AS a, price AS a FROM bid",
            "1:19+1 the column 'a' occurs twice",
            Some("rename one of them with AS; `*` has all columns already"),
        ),
        (
            "SELECT CAST(5 AS TIMESTAMP(3)) FROM bid",
            "1:8+4 a value of the type INT cannot be CAST to TIMESTAMP(3)",
            None,
        ),
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
            "SELECT auction FROM bid WHERE url LIKE 'a%b' ESCAPE '%'",
            "1:46+6 this LIKE … ESCAPE is not supported yet",
            None,
        ),
        (
            "SELECT auction FROM bid WHERE CAST(`dateTime` AS DATE) > DATE '2024-02-30'",
            "1:63+12 CAST: '2024-02-30' is not a value of the type DATE; TRY_CAST makes NULL of such texts",
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
fn partitions_that_a_table_cannot_have_are_named() {
    let files = "'connector' = 'filesystem', 'path' = 'a', 'format' = 'json'";
    let table = |by: &str, options: &str| {
        format!(
            "CREATE TABLE a (x BIGINT, r ROW<n INT>, c AS x + 1, d STRING) PARTITIONED BY ({by}) WITH ({options});
INSERT INTO a SELECT 1, ROW(1), 'd';"
        )
    };
    let cases = [
        (
            table("d", "'connector' = 'print'"),
            "1:79+1 table 'a': 'print' has no partitions that PARTITIONED BY could make",
        ),
        (table("r", files), "1:79+1 the column 'r' is ROW<n INT>, by which nothing can be partitioned"),
        (table("c", files), "1:79+1 the column 'c' is not written, and nothing can be partitioned by it"),
        (table("day", files), "1:79+3 there is no column 'day' to partition by"),
        (table("d, d", files), "1:82+1 'd' is in PARTITIONED BY twice"),
        (
            format!("CREATE TABLE a (x INT) PARTITIONED BY (x) WITH ({files});\nINSERT INTO a SELECT 1;"),
            "1:40+1 all columns are in PARTITIONED BY, and nothing is left for the files",
        ),
    ];
    for (sql, expected) in cases {
        let mistakes = compile(&sql).unwrap_err();
        let found = &mistakes[0];
        let place = format!("{}:{}+{} {}", found.line, found.column, found.length, found.message);
        assert_eq!(place, expected, "{sql}");
        assert!(found.hint.is_some(), "{sql}");
    }
    plan(&table("d", files));
}

#[test]
fn metadata_that_a_connector_does_not_have_are_named() {
    let kafka = "'connector' = 'kafka', 'topic' = 't', 'bootstrap.servers' = 'b:9092', 'format' = 'json'";
    let cases = [
        ("x BIGINT METADATA", "'connector' = 'print'", "'print' has no metadata 'x'", "remove the column"),
        (
            "p INT METADATA FROM 'partitoin' VIRTUAL",
            kafka,
            "'kafka' has no metadata 'partitoin'",
            "did you mean 'partition'?",
        ),
        (
            "key STRING METADATA",
            kafka,
            "'kafka' has no metadata 'key'",
            "it has topic, partition, headers, leader-epoch, offset, timestamp, timestamp-type",
        ),
        (
            "ts BIGINT METADATA FROM 'timestamp'",
            kafka,
            "the column 'ts' is BIGINT, and the metadata 'timestamp' of 'kafka' is TIMESTAMP_LTZ(3)",
            "declare it TIMESTAMP_LTZ(3)",
        ),
    ];
    for (column, options, message, hint) in cases {
        let found = compile(&format!("CREATE TABLE a (n INT, {column}) WITH ({options});")).unwrap_err();

        let [_, found] = found.as_slice() else {
            panic!("{column}: one mistake beside the missing INSERT: {found:?}")
        };
        assert_eq!(found.to_string(), format!("line 1, column 24: table 'a': {message}"));
        assert_eq!(found.hint.as_deref(), Some(hint), "{column}");
    }
    let written = format!(
        "CREATE TABLE a (n INT, ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp') WITH ({kafka});\nINSERT INTO a SELECT n FROM a;"
    );
    let found = compile(&written).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "line 2, column 13: the query has 1 columns, and 2 of 'a' are to be written"
    );
    plan(&written.replace("'timestamp')", "'timestamp' VIRTUAL)"));
    plan(&written.replace("SELECT n", "SELECT n, ts"));
    let of_offset = format!(
        "CREATE TABLE a (n INT, o BIGINT METADATA FROM 'offset') WITH ({kafka});\nINSERT INTO a SELECT n, o FROM a;"
    );
    assert_eq!(
        compile(&of_offset).unwrap_err()[0].to_string(),
        "line 2, column 13: the METADATA column 'o' of 'a' cannot be written: 'offset' is only read"
    );
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
fn statements_of_flink_that_are_not_there_yet_are_refused_by_name() {
    let cases = [
        ("CREATE FUNCTION f AS 'x'", "column 8: CREATE FUNCTION is not supported yet"),
        ("CREATE OR REPLACE TABLE a (x INT)", "column 8: CREATE OR REPLACE is not supported yet"),
        ("CREATE TABLE a LIKE b", "column 16: CREATE TABLE … LIKE is not supported yet"),
        ("CREATE TABLE a AS SELECT 1", "column 16: CREATE TABLE … AS is not supported yet"),
        ("CREATE TABLE a (x INT) WITH ('connector' = 'print') LIKE b", "column 53: CREATE TABLE … LIKE is"),
        (
            "CREATE TABLE a (x INT) DISTRIBUTED INTO 4 BUCKETS WITH ('connector' = 'print')",
            "column 24: CREATE TABLE … DISTRIBUTED is not supported yet",
        ),
        ("INSERT OVERWRITE a SELECT 1", "column 1: INSERT OVERWRITE is not supported yet"),
        (
            "INSERT INTO a PARTITION (x = 1) SELECT 1",
            "column 15: INSERT INTO … PARTITION is not supported yet",
        ),
    ];
    for (sql, expected) in cases {
        let mistakes = compile(sql).unwrap_err();

        assert!(mistakes[0].to_string().starts_with(&format!("line 1, {expected}")), "{sql}: {mistakes:?}");
        assert!(mistakes[0].hint.is_some(), "{sql}");
    }
}

#[test]
fn all_mistakes_of_a_text_are_found_at_once() {
    let sql = "CREATE TABLE a (x BIGINT, y MULTISET<INT>) WITH ('connector' = 'print');\nDROP TABLE a;\n";

    let mistakes = compile(sql).unwrap_err();

    assert_eq!(
        rendered(sql, &mistakes),
        "line 1, column 29: the type 'MULTISET' is not supported\n 1 | CREATE TABLE a (x BIGINT, y MULTISET<INT>) WITH ('connector' = 'print');\n   |                             ^^^^^^^^\n   hint: use BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), STRING, BYTES, DATE, TIME, TIMESTAMP(p), TIMESTAMP_LTZ(p), ROW<…>, ARRAY<…> or MAP<…>\nline 2, column 1: the statement DROP is not supported\n 2 | DROP TABLE a;\n   | ^^^^\n   hint: there are CREATE TABLE, CREATE VIEW, SET, INSERT INTO … SELECT, and SELECT in `millrace sql`"
    );
}

#[test]
fn a_text_without_insert_is_refused() {
    let mistakes = compile(SETUP).unwrap_err();

    assert_eq!(mistakes[0].message, "the SQL has no INSERT INTO, so the job would do nothing");
}

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
fn tables_whose_rows_change_have_no_times_and_no_maps_and_are_written_by_their_key() {
    let first = |columns: &str, more: &str, sink: &str, query: &str| {
        let sql = format!(
            "CREATE TABLE t ({columns}, PRIMARY KEY (k) NOT ENFORCED) WITH ({UPSERT}{more});
CREATE TABLE out (k BIGINT, n BIGINT{sink});
INSERT INTO out {query};"
        );
        compile(&sql).map(|_| ()).map_err(|found| found[0].to_string())
    };
    let (columns, copy) = ("k BIGINT, v BIGINT, ts TIMESTAMP(3)", "SELECT k, v FROM t");
    let by_key = format!(", PRIMARY KEY (k) NOT ENFORCED) WITH ({UPSERT}");
    let print = ") WITH ('connector' = 'print'";

    assert_eq!(first(columns, "", &by_key, copy), Ok(()));
    assert_eq!(first(columns, "", &by_key, "SELECT k, v FROM t WHERE v > 3"), Ok(()));
    assert_eq!(first(columns, "", print, "SELECT v, COUNT(*) FROM t GROUP BY v"), Ok(()));
    assert_eq!(first(columns, "", print, "SELECT MAX(v), COUNT(*) FROM t"), Ok(()));
    for (found, words) in [
        (
            first(&format!("{columns}, WATERMARK FOR ts AS ts"), "", print, copy),
            "line 1, column 68: table 't': a WATERMARK of 'upsert-kafka', whose rows change, is not supported yet",
        ),
        (
            first(&format!("{columns}, m MAP<STRING, INT>"), "", print, copy),
            "line 1, column 54: table 't': reading the MAP 'm' of 'upsert-kafka' is not supported yet",
        ),
        (
            first(columns, "", &by_key, "SELECT k + 1, v FROM t"),
            "line 3, column 13: the query changes rows that it has given before, and 'out' has to find them",
        ),
        (
            first(columns, "", ") WITH ('connector' = 'filesystem', 'path' = 'f', 'format' = 'json'", copy),
            "line 3, column 13: the query changes rows that it has given before, and 'out' can only add rows",
        ),
        (
            first(columns, ", 'key.fields-prefix' = 'x_'", print, copy),
            "the option 'key.fields-prefix' needs 'value.fields-include' = 'EXCEPT_KEY'",
        ),
        (
            first(
                columns,
                ", 'value.fields-include' = 'EXCEPT_KEY', 'key.fields-prefix' = 'x_'",
                print,
                copy,
            ),
            "the column 'k' of the PRIMARY KEY does not begin with 'key.fields-prefix' = 'x_'",
        ),
        (
            first(columns, ", 'value.csv.field-delimiter' = ';'", print, copy),
            "the option 'value.csv.field-delimiter' is one of 'csv', and the format is 'json'",
        ),
    ] {
        let found = found.unwrap_err();
        assert!(found.contains(words), "{words} is not in: {found}");
    }
}

#[test]
fn columns_that_a_generator_a_format_or_a_window_cannot_have_are_named() {
    let found =
        |sql: &str| -> Vec<String> { compile(sql).unwrap_err().iter().map(ToString::to_string).collect() };
    let into = "CREATE TABLE out (n BIGINT) WITH ('connector' = 'print');";
    let clock =
        "CREATE TABLE t (n BIGINT, ts AS PROCTIME(), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen');";
    let refused = millrace_sql::compile(clock).unwrap_err();
    assert_eq!(refused[0].message, "the event time of 'ts' asks the clock (PROCTIME)");
    let window = "CREATE TABLE t (window_end BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'topic' = 't', 'bootstrap.servers' = 'b:9092', 'format' = 'json');";

    assert_eq!(
        found(&format!(
            "CREATE TABLE e (bid ROW<prise BIGINT, auction BIGINT>,\n event_typ INT) WITH ('connector' = 'nexmark');\n{into}\nINSERT INTO out SELECT bid.auction FROM e;"
        )),
        [
            "line 1, column 17: table 'e': the generator has no column 'bid.prise'",
            "line 2, column 2: table 'e': the generator has no column 'event_typ'",
        ]
    );
    let nested = "CREATE TABLE c (n BIGINT, r ARRAY<INT>) WITH ('connector' = 'filesystem', 'path' = 'c', 'format' = 'csv');";
    assert_eq!(
        found(&format!("{into}\n{nested}\nINSERT INTO out SELECT n FROM c;")),
        [
            "line 2, column 27: table 'c': the column 'r' is ARRAY<INT>, which is not supported yet in the format 'csv'"
        ]
    );
    assert_eq!(
        found(&format!(
            "{window}\n{into}\nINSERT INTO out SELECT COUNT(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end;"
        )),
        ["line 3, column 57: 't' has a column 'window_end' already, which the window adds"]
    );
}

#[test]
fn types_that_do_not_go_together_are_named_as_sql_calls_them() {
    let mut wrong = Vec::new();
    for (query, expected) in [
        ("SELECT SUM(COUNT(*)) FROM t", "12+5 an aggregate cannot be inside of another one"),
        (
            "SELECT COUNT(*) FROM t GROUP BY COUNT(*)",
            "24+5 the aggregate COUNT cannot be in GROUP BY: it is of what is grouped",
        ),
        ("SELECT id, SUM(s) FROM t GROUP BY id", "12+3 'SUM' does not take values of the type STRING"),
        ("SELECT MAX(m) FROM t", "8+3 'MAX' does not take values of the type MAP<STRING, BIGINT>"),
        ("SELECT MAX(r) FROM t", "8+3 'MAX' does not take values of the type ROW<x INT, y STRING>"),
        ("SELECT ts - ts FROM t", "11+1 a difference of times is not supported yet"),
        ("SELECT id, UNNEST(a) FROM t", "12+6 UNNEST is not supported yet"),
        ("SELECT id, -s FROM t", "13+1 only numbers and intervals have a - before them"),
        ("SELECT id, NOT id FROM t", "16+2 there is no NOT BIGINT"),
        ("SELECT CASE WHEN id THEN 1 END FROM t", "18+2 a condition is BOOLEAN, and this is not"),
        ("SELECT CASE WHEN 3 THEN 1 END FROM t", "13+4 a condition is BOOLEAN, and this is not"),
        ("SELECT IF(id, 1, 2) FROM t", "11+2 a condition is BOOLEAN, and this is not"),
        ("SELECT a + a FROM t", "8+5 there is no ARRAY<BIGINT> + ARRAY<BIGINT>"),
        ("SELECT a > 1 FROM t", "8+1 there is no comparison ARRAY<BIGINT> > INT"),
        ("SELECT id = r FROM t", "8+6 there is no comparison BIGINT = ROW<x INT, y STRING>"),
        ("SELECT CAST(a AS INT) FROM t", "13+1 a value of the type ARRAY<BIGINT> cannot be CAST to INT"),
        (
            "SELECT CAST(r AS INT) FROM t",
            "13+1 a value of the type ROW<x INT, y STRING> cannot be CAST to INT",
        ),
        (
            "SELECT CAST(id AS ARRAY<INT>) FROM t",
            "13+2 a value of the type BIGINT cannot be CAST to ARRAY<INT>",
        ),
        ("SELECT s LIKE 3 FROM t", "10+4 there is no STRING LIKE INT"),
        ("SELECT id BETWEEN s AND ts FROM t", "11+7 there is no BIGINT BETWEEN TIMESTAMP(3)"),
        ("SELECT id IN (ts) FROM t", "11+2 there is no BIGINT IN (TIMESTAMP(3))"),
        ("SELECT id FROM t WHERE id AND b", "27+3 there is no BIGINT AND BOOLEAN"),
        ("SELECT id FROM t WHERE b OR id", "26+2 there is no BOOLEAN OR BIGINT"),
        (
            "SELECT COALESCE(a, 1) FROM t",
            "8+8 ARRAY<BIGINT> and INT cannot be results of one expression: they have no common type",
        ),
        (
            "SELECT id FROM t UNION ALL SELECT a FROM t",
            "18+5 BIGINT and ARRAY<BIGINT> cannot be in one column of a UNION",
        ),
        (
            "SELECT id FROM t UNION ALL SELECT id, s FROM t",
            "1+46 the queries of a UNION have different numbers of columns",
        ),
        ("SELECT ts + INTERVAL '1' FROM t", "22+1 an INTERVAL has a unit"),
    ] {
        let table = "CREATE TABLE t (id BIGINT, s STRING, ts TIMESTAMP(3), a ARRAY<BIGINT>, m MAP<STRING, BIGINT>, r ROW<x INT, y STRING>, b BOOLEAN) WITH ('connector' = 'filesystem', 'path' = 'p', 'format' = 'json');";
        let sink = "CREATE TABLE out (x STRING) WITH ('connector' = 'print');";
        let mistakes = compile(&format!("{table}{sink} INSERT INTO out\n{query}")).expect_err(query);
        let found = &mistakes[0];
        let said = format!("{}+{} {}", found.column, found.length, found.message);
        if said != expected || found.line != 2 || found.hint.is_none() || mistakes.len() != 1 {
            wrong.push(format!("{query}\n  expected {expected}\n  found {said} ({:?})", found.hint));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn options_of_a_safe_connection_that_do_not_fit_together_are_shown_where_they_are() {
    let sql = "CREATE TABLE t (id BIGINT) WITH ('connector' = 'kafka', 'topic' = 't', 'bootstrap.servers' = 'b:9092', 'format' = 'json',
  'properties.security.protocol' = 'SASL_SSL');
CREATE TABLE out (id BIGINT) WITH ('connector' = 'print');
INSERT INTO out SELECT id FROM t;";

    let found = compile(sql).unwrap_err();

    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "line 2, column 3: table 't': 'properties.security.protocol' = 'SASL_SSL' needs 'properties.sasl.jaas.config'"
        ]
    );
}

#[test]
fn a_setting_is_of_the_job_or_says_where_it_is() {
    let job = |set: &str| {
        format!(
            "{set}\nCREATE TABLE t (id BIGINT) WITH ('connector' = 'nexmark');
CREATE TABLE own (id BIGINT) WITH ('connector' = 'datagen', 'scan.watermark.idle-timeout' = '1 s');
CREATE TABLE out (id BIGINT) WITH ('connector' = 'print');
INSERT INTO out SELECT id FROM own;"
        )
    };
    let sql =
        job("SET 'table.exec.source.idle-timeout' = '10 s'; SET 'table.local-time-zone' = 'UTC';").replace(
            "(id BIGINT) WITH ('connector' = 'nexmark')",
            "(event_type INT) WITH ('connector' = 'nexmark')",
        ) + "INSERT INTO out SELECT event_type FROM t;";
    let timeouts: Vec<_> = plan(&sql)
        .operators
        .into_iter()
        .filter_map(|operator| match operator.kind {
            Some(millrace_sql::plan::OperatorKind::Source(source)) => source.table,
            _ => None,
        })
        .map(|table| (table.name, table.options["scan.watermark.idle-timeout"].clone()))
        .collect();
    assert_eq!(timeouts, [("own".to_owned(), "1 s".to_owned()), ("t".to_owned(), "10 s".to_owned())]);

    for (set, expected, hint) in [
        (
            "SET 'parallelism.default' = '4';",
            "1:5+21 'parallelism.default' is no setting of the SQL",
            "set spec.parallelism in the manifest",
        ),
        (
            "SET 'table.local-time-zone' = 'Europe/Pari';",
            "1:31+13 'table.local-time-zone' = 'Europe/Pari' is no time zone",
            "write a name such as 'Europe/Berlin'",
        ),
        (
            "SET 'table.exec.source.idle-timeout' = 'soon';",
            "1:40+6 'table.exec.source.idle-timeout' = 'soon' is not a duration",
            "write such as '10 s'",
        ),
        (
            "SET 'table.local-timezone' = 'UTC';",
            "1:5+22 the setting 'table.local-timezone' is not known",
            "did you mean 'table.local-time-zone'?",
        ),
        ("SET parallelism = 4;", "1:5+11 expected the name of a setting in quotes", ""),
    ] {
        let found = compile(&job(set)).expect_err(set);
        let place = format!("{}:{}+{} {}", found[0].line, found[0].column, found[0].length, found[0].message);
        assert!(place.starts_with(expected), "{set}: {place}");
        assert!(found[0].hint.clone().unwrap_or_default().starts_with(hint), "{set}: {:?}", found[0].hint);
    }
}

//! The planner seen from outside: texts in, plans or mistakes out.

mod compile {
    mod mistakes;
    mod plans;

    use millrace_sql::plan::Plan;
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

    const UPSERT: &str = "'connector' = 'upsert-kafka', 'topic' = 't', 'bootstrap.servers' = 'b:9092', 'key.format' = 'json', 'value.format' = 'json'";
}

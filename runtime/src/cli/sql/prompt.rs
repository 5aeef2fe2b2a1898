//! `millrace sql` without statements on a terminal: a prompt, where tables are declared and queries shown.

use std::path::PathBuf;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use millrace_sql::diagnostic::Diagnostic;
use millrace_sql::plan::{Field, OperatorKind};
use millrace_sql::{Statements, compile_declarations, compile_query, is_complete, statements};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use super::{SqlArguments, show};
use crate::cli::Exit;
use crate::cli::job::UserError;

const HELP: &str = "\
Statements end with a semicolon and may have several lines.
  CREATE TABLE …; CREATE VIEW …;   declare what queries read, until the prompt ends
  SELECT …;                        shows the rows; Ctrl-C ends one whose input has no end
  SHOW TABLES;                     names what is declared
  DESCRIBE name;                   shows the columns of a table or view
  QUIT;                            ends the prompt, as Ctrl-D does
";

/// Asks for statements until there are no more.
pub fn prompt(arguments: &SqlArguments) -> Result<Exit, UserError> {
    let failed = |error: ReadlineError| UserError(format!("failed to ask for statements: {error}"));
    let config = Config::builder().max_history_size(1000).map_err(failed)?.build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(config).map_err(failed)?;
    let history = history_file();
    if let Some(history) = &history {
        // The first time there is none.
        let _ = editor.load_history(history);
    }
    println!("millrace {}; HELP; tells what can be asked", env!("CARGO_PKG_VERSION"));
    let (mut session, mut text) = (Session::default(), String::new());
    loop {
        match editor.readline(if text.is_empty() { "sql> " } else { "...> " }) {
            Ok(line) => text = text + &line + "\n",
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        }
        if text.trim().is_empty() {
            text.clear();
            continue;
        }
        if !is_complete(&text) {
            continue;
        }
        let asked = std::mem::take(&mut text);
        let _ = editor.add_history_entry(asked.trim());
        match session.take(&asked) {
            Ok(Answer::End) => break,
            Ok(Answer::Text(answer)) => println!("{answer}"),
            Ok(Answer::Query(query)) => match show(query, &format!("{}{asked}", session.declared), arguments)
            {
                Ok(_) => {}
                Err(error) => eprintln!("{error}"),
            },
            Err(mistakes) => eprintln!("{mistakes}"),
        }
    }
    if let Some(history) = history {
        let folder = history.parent().map(std::fs::create_dir_all);
        if let Err(error) = editor.save_history(&history) {
            eprintln!("failed to keep the history in '{}': {error} ({folder:?})", history.display());
        }
    }
    Ok(Exit::Done)
}

/// Where programs keep what is no setting and no cache; `None`: there is no home.
fn history_file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    state.map(|state| state.join("millrace/sql-history"))
}

/// What was declared so far.
#[derive(Default)]
struct Session {
    declared: String,
}

/// What statements mean here.
enum Answer {
    Text(String),
    Query(millrace_sql::ShownQuery),
    End,
}

impl Session {
    /// Takes statements that are complete.
    ///
    /// # Errors
    /// Their mistakes, for the user.
    fn take(&mut self, text: &str) -> Result<Answer, String> {
        let words: Vec<&str> = text.trim().trim_end_matches(';').split_whitespace().collect();
        let is =
            |index: usize, word: &str| words.get(index).is_some_and(|found| found.eq_ignore_ascii_case(word));
        match words.len() {
            0 => return Ok(Answer::Text(String::new())),
            1 if is(0, "help") => return Ok(Answer::Text(HELP.trim_end().to_owned())),
            1 if is(0, "quit") || is(0, "exit") => return Ok(Answer::End),
            2 if is(0, "show") && is(1, "tables") => return self.names().map(Answer::Text),
            2 if is(0, "describe") || is(0, "desc") => return self.describe(words[1]).map(Answer::Text),
            _ => {}
        }
        let all = format!("{}{text}", self.declared);
        let wrong = |mistakes: Vec<Diagnostic>| self.rendered(text, &all, mistakes);
        match statements(&all).map_err(wrong)? {
            Statements::Query => compile_query(&all).map(Answer::Query).map_err(wrong),
            Statements::Declarations { .. } => {
                compile_declarations(&all).map_err(wrong)?;
                self.declared = all;
                Ok(Answer::Text("declared".to_owned()))
            }
        }
    }

    fn names(&self) -> Result<String, String> {
        let wrong = |mistakes: Vec<Diagnostic>| self.rendered("", &self.declared, mistakes);
        match statements(&self.declared).map_err(wrong)? {
            Statements::Declarations { names } if !names.is_empty() => Ok(names.join("\n")),
            _ => Ok("nothing is declared".to_owned()),
        }
    }

    fn describe(&self, name: &str) -> Result<String, String> {
        let text = format!("SELECT * FROM {name};");
        let all = format!("{}{text}", self.declared);
        let query = compile_query(&all).map_err(|mistakes| self.rendered(&text, &all, mistakes))?;
        let sinks = query.plan.operators.into_iter().filter_map(|operator| match operator.kind {
            Some(OperatorKind::Sink(sink)) => sink.table?.schema,
            _ => None,
        });
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header(["column", "type"]);
        for Field { name, data_type, .. } in sinks.flat_map(|schema| schema.fields) {
            table.add_row([name, data_type.unwrap_or_default().to_string()]);
        }
        Ok(table.to_string())
    }

    /// Mistakes with the lines of what was just typed, unless they are in what was declared before.
    fn rendered(&self, text: &str, all: &str, mistakes: Vec<Diagnostic>) -> String {
        let before = self.declared.lines().count() as u64;
        let one = |mut mistake: Diagnostic| {
            if mistake.line <= before {
                return mistake.render(all);
            }
            mistake.line -= before;
            mistake.render(text)
        };
        mistakes.into_iter().map(one).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answer: Result<Answer, String>) -> String {
        match answer {
            Ok(Answer::Text(text)) | Err(text) => text,
            Ok(Answer::Query(query)) => format!("a query of {} operators", query.plan.operators.len()),
            Ok(Answer::End) => "the end".to_owned(),
        }
    }

    #[test]
    fn statements_are_answered_in_turn() {
        let mut session = Session::default();
        let table = "CREATE TABLE t (k INT, ts TIMESTAMP(3))\n WITH ('connector' = 'filesystem', 'path' = 's', 'format' = 'json');\n";
        assert_eq!(text(session.take("show tables;")), "nothing is declared");
        assert_eq!(text(session.take(table)), "declared");
        assert_eq!(text(session.take("CREATE VIEW v AS SELECT k + 1 AS n FROM t;\n")), "declared");
        assert_eq!(text(session.take("Show Tables ;\n")), "t\nv");
        assert!(
            text(session.take("DESCRIBE v;\n")).contains("| n      | INT  |"),
            "{}",
            text(session.take("DESC v;"))
        );
        assert!(text(session.take("SELECT k FROM t;\n")).starts_with("a query"));
        let wrong = text(session.take("SELECT\n  kk FROM t;\n"));
        assert!(
            wrong.starts_with("line 2, column 3: there is no column 'kk'")
                && wrong.contains("2 |   kk FROM t;"),
            "{wrong}"
        );
        assert!(
            text(session.take("CREATE TABLE t (x INT) WITH ('connector' = 'print');\n"))
                .contains("declared twice")
        );
        assert!(text(session.take("INSERT INTO t SELECT k, ts FROM t;\n")).contains("millrace run JOB.yaml"));
        assert_eq!(text(session.take("show tables;")), "t\nv", "what was refused is forgotten");
        assert_eq!(text(session.take("quit;")), "the end");
    }
}

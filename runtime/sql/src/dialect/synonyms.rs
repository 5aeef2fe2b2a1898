//! Words of Flink's that say what the SQL parser knows under another name, or takes for granted.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::is_word;

/// Replaces such words in the tokens of a text.
pub fn replace_synonyms(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    with_points(without_asymmetric(tokens))
}

fn is(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(found) if is_word(found, word))
}

fn is_space(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

/// BETWEEN is ASYMMETRIC whether it is said or not.
fn without_asymmetric(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut is_after_between = false;
    let mut kept = tokens;
    kept.retain(|token| {
        let is_dropped = is_after_between && is(token, "ASYMMETRIC");
        if !is_space(token) {
            is_after_between = is(token, "BETWEEN");
        }
        !is_dropped
    });
    kept
}

/// `TIMESTAMP(3) WITH LOCAL TIME ZONE` is `TIMESTAMP_LTZ(3)`.
fn with_points(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    const WORDS: [&str; 4] = ["WITH", "LOCAL", "TIME", "ZONE"];
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let may_end = is(&token, "ZONE");
        kept.push(token);
        if !may_end {
            continue;
        }
        let significant: Vec<usize> =
            (0..kept.len()).rev().filter(|at| !is_space(&kept[*at])).take(8).collect();
        let words = significant.iter().take(4).rev();
        if significant.len() < 5 || !words.zip(WORDS).all(|(at, word)| is(&kept[*at], word)) {
            continue;
        }
        // Before them are the name, or the name and digits in parentheses.
        let name = match (&kept[significant[4]].token, significant.get(7)) {
            (Token::RParen, Some(name)) => *name,
            _ => significant[4],
        };
        if is(&kept[name], "TIMESTAMP") {
            let point =
                Word { value: "TIMESTAMP_LTZ".to_owned(), quote_style: None, keyword: Keyword::NoKeyword };
            kept[name].token = Token::Word(point);
            kept.truncate(significant[3]);
        }
    }
    kept
}

//! Words of Flink's that say what the SQL parser knows under another name, or takes for granted.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::is_word;

/// Replaces such words in the tokens of a text.
pub fn replace_synonyms(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    json_calls(with_points(without_asymmetric(tokens)))
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

/// Calls of JSON_OBJECT and JSON_ARRAY whose values that are NULL are not what they are without being told.
pub const OBJECT_ABSENT: &str = "JSON_OBJECT_ABSENT_ON_NULL";
pub const ARRAY_PRESENT: &str = "JSON_ARRAY_NULL_ON_NULL";

/// `JSON_OBJECT(KEY k VALUE v ABSENT ON NULL)` is a call with the arguments `k, v` under a name that says the rest.
fn json_calls(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut tokens = tokens;
    let mut dropped = vec![false; tokens.len()];
    for name in 0..tokens.len() {
        let is_object = is(&tokens[name], "JSON_OBJECT");
        if !is_object && !is(&tokens[name], "JSON_ARRAY") {
            continue;
        }
        let Some(inside) = arguments(&tokens, name) else { continue };
        if let [.., case, on, null] = inside.as_slice()
            && is(&tokens[*on], "ON")
            && is(&tokens[*null], "NULL")
        {
            let other = match is_object {
                true => is(&tokens[*case], "ABSENT").then_some(OBJECT_ABSENT),
                false => is(&tokens[*case], "NULL").then_some(ARRAY_PRESENT),
            };
            if let (Some(other), Token::Word(word)) = (other, &mut tokens[name].token) {
                other.clone_into(&mut word.value);
            }
            [*case, *on, *null].into_iter().for_each(|index| dropped[index] = true);
        }
        if is_object {
            let items = inside.split(|index| tokens[*index].token == Token::Comma);
            let words: Vec<_> = items.map(|item| key_and_value(&tokens, item)).collect();
            for (key, value) in words {
                key.into_iter().for_each(|key| dropped[key] = true);
                value.into_iter().for_each(|value| tokens[value].token = Token::Comma);
            }
        }
    }
    let mut dropped = dropped.into_iter();
    tokens.retain(|_| dropped.next() != Some(true));
    tokens
}

/// Where the words KEY and VALUE of one pair are. Columns may have these names.
fn key_and_value(tokens: &[TokenWithSpan], item: &[usize]) -> (Option<usize>, Option<usize>) {
    let is_word = |index: &usize, word: &str| is(&tokens[*index], word);
    let key = match item {
        [key, next, _, ..] if is_word(key, "KEY") && !is_word(next, "VALUE") => Some(*key),
        _ => None,
    };
    let behind = item.iter().skip(1 + usize::from(key.is_some()));
    (key, behind.copied().find(|index| is_word(index, "VALUE")))
}

/// The tokens within the parentheses after a name; of further parentheses only how they open.
fn arguments(tokens: &[TokenWithSpan], name: usize) -> Option<Vec<usize>> {
    let mut rest = (name + 1..tokens.len()).filter(|index| !is_space(&tokens[*index]));
    if tokens[rest.next()?].token != Token::LParen {
        return None;
    }
    let (mut depth, mut inside) = (0, Vec::new());
    for index in rest {
        if depth == 0 && tokens[index].token == Token::RParen {
            return Some(inside);
        }
        if depth == 0 {
            inside.push(index);
        }
        match tokens[index].token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth -= 1,
            _ => {}
        }
    }
    None
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

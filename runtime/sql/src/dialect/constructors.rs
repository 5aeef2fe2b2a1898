//! `ARRAY[a, b]` and `MAP['k', v]`: found among the tokens of a text and written as calls, which the SQL parser knows.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::is_word;

/// Replaces the brackets of each constructor by parentheses. Those that are not closed are left to the parser.
pub fn replace_constructors(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut tokens = tokens;
    for word in 0..tokens.len() {
        let Some(name) = constructor(&tokens[word].token) else { continue };
        let is_space = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_));
        let Some(open) = (word + 1..tokens.len()).find(|index| !is_space(&tokens[*index])) else { continue };
        if tokens[open].token != Token::LBracket {
            continue;
        }
        let Some(close) = closing(&tokens, open) else { continue };
        let call = Word { value: name.to_owned(), quote_style: None, keyword: Keyword::NoKeyword };
        tokens[word].token = Token::Word(call);
        tokens[open].token = Token::LParen;
        tokens[close].token = Token::RParen;
    }
    tokens
}

fn constructor(token: &Token) -> Option<&'static str> {
    let Token::Word(word) = token else { return None };
    ["array", "map"].into_iter().find(|name| is_word(word, &name.to_uppercase()))
}

/// Where the bracket is closed that is opened there.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LBracket => depth += 1,
            Token::RBracket if depth == 1 => return Some(index),
            Token::RBracket => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

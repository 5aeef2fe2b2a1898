//! A cursor over the significant tokens of one statement.

use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use crate::diagnostic::Diagnostic;

/// Result of parsing; the error is always one mistake at one place.
pub type Parsed<T> = Result<T, Diagnostic>;

/// Walks over tokens, skipping white space and comments.
pub struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    position: usize,
    end: Span,
}

/// A mistake at the place of a token.
pub fn mistake(token: &TokenWithSpan, message: impl Into<String>) -> Diagnostic {
    at_span(token.span, message)
}

/// A mistake at a span of the text.
pub fn at_span(span: Span, message: impl Into<String>) -> Diagnostic {
    let length =
        if span.end.line == span.start.line { span.end.column.saturating_sub(span.start.column) } else { 1 };
    Diagnostic::at(span.start.line, span.start.column, length, message)
}

impl<'a> Cursor<'a> {
    /// Starts before the first token. `end` is where a missing token is reported.
    pub fn new(tokens: &'a [TokenWithSpan], end: Span) -> Self {
        let mut cursor = Cursor { tokens, position: 0, end };
        cursor.skip_space();
        cursor
    }

    fn skip_space(&mut self) {
        while matches!(self.tokens.get(self.position), Some(t) if matches!(t.token, Token::Whitespace(_))) {
            self.position += 1;
        }
    }

    /// The next token; end of statement is `Token::EOF`.
    pub fn peek(&self) -> TokenWithSpan {
        self.tokens.get(self.position).cloned().unwrap_or(TokenWithSpan { token: Token::EOF, span: self.end })
    }

    /// The token after the next one.
    pub fn peek_second(&self) -> Token {
        let mut rest = self.tokens.iter().skip(self.position + 1);
        rest.find(|t| !matches!(t.token, Token::Whitespace(_))).map_or(Token::EOF, |t| t.token.clone())
    }

    /// Takes the next token.
    pub fn next(&mut self) -> TokenWithSpan {
        let token = self.peek();
        self.position += 1;
        self.skip_space();
        token
    }

    /// True at the end of the statement.
    pub fn is_done(&self) -> bool {
        self.position >= self.tokens.len()
    }

    /// True if the next token is this unquoted word, in any case.
    pub fn at_word(&self, word: &str) -> bool {
        matches!(&self.peek().token, Token::Word(w) if is_word(w, word))
    }

    /// Takes the next token if it is this unquoted word.
    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.next();
        }
        found
    }

    /// Takes a run of words if all of them follow.
    pub fn take_words(&mut self, words: &[&str]) -> bool {
        let start = self.position;
        if words.iter().all(|word| self.take_word(word)) {
            return true;
        }
        self.position = start;
        false
    }

    /// Takes this word or reports what was expected.
    pub fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    /// Takes the next token if it is equal to `token`.
    pub fn take(&mut self, token: &Token) -> bool {
        let found = self.peek().token == *token;
        if found {
            self.next();
        }
        found
    }

    /// Takes this token or reports what was expected.
    pub fn expect(&mut self, token: &Token) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(&token.to_string())) }
    }

    /// Takes a name, quoted by back quotes or not.
    pub fn name(&mut self, what: &str) -> Parsed<(String, Span)> {
        let token = self.peek();
        match &token.token {
            Token::Word(word) if word.quote_style != Some('"') => {
                self.next();
                Ok((word.value.clone(), token.span))
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// Takes a string in single quotes.
    pub fn string(&mut self, what: &str) -> Parsed<(String, Span)> {
        let token = self.peek();
        match &token.token {
            Token::SingleQuotedString(text) => {
                self.next();
                Ok((text.clone(), token.span))
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// Takes a whole number.
    pub fn number(&mut self, what: &str) -> Parsed<u32> {
        let token = self.peek();
        match &token.token {
            Token::Number(text, _) => {
                let number = text.parse().map_err(|_| self.unexpected(what))?;
                self.next();
                Ok(number)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// Takes tokens up to a comma, or the parenthesis that closes the surrounding one, at this level.
    pub fn until_end_of_item(&mut self) -> &'a [TokenWithSpan] {
        let start = self.position;
        let mut depth = 0_u32;
        while let Some(token) = self.tokens.get(self.position) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                Token::Comma if depth == 0 => break,
                _ => {}
            }
            self.position += 1;
        }
        &self.tokens[start..self.position]
    }

    /// All tokens that are left.
    pub fn rest(&mut self) -> &'a [TokenWithSpan] {
        let start = self.position.min(self.tokens.len());
        self.position = self.tokens.len();
        &self.tokens[start..]
    }

    /// A mistake: something else was expected here.
    pub fn unexpected(&self, expected: &str) -> Diagnostic {
        let token = self.peek();
        let found = match &token.token {
            Token::EOF => "the end of the statement".to_owned(),
            token => format!("'{token}'"),
        };
        mistake(&token, format!("expected {expected}, found {found}"))
    }
}

/// True if an unquoted word equals `word` in any case.
pub fn is_word(token: &Word, word: &str) -> bool {
    token.quote_style.is_none() && token.value.eq_ignore_ascii_case(word)
}

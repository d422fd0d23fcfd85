//! Tokens of PTX text, one ahead of the parser.
//!
//! Knows spelling only. An opcode with its modifiers is several tokens (`ld`, `.global`, `.L2::128B`), so is a component
//! (`%tid`, `.x`); a number stays text until its reader knows what it should be.

use super::PtxError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// An identifier.
    Word(&'a str),
    /// `.name`, without the dot; `::` belongs to it.
    Dotted(&'a str),
    Number(&'a str),
    /// Between the quotes, escapes untouched.
    Text(&'a str),
    Symbol(char),
    End,
}

impl std::fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Token::Word(s) | Token::Number(s) => write!(f, "`{}`", brief(s)),
            Token::Dotted(s) => write!(f, "`.{}`", brief(s)),
            Token::Text(s) => write!(f, "\"{}\"", brief(s)),
            Token::Symbol(c) => write!(f, "`{c}`"),
            Token::End => write!(f, "the end of the text"),
        }
    }
}

/// Statements that every text may have, and bytes of text for each of the others: half of what compilers need.
const FREE: usize = 1 << 14;
const DENSITY: usize = 16;
/// The statements that a function counts as.
pub(super) const FUNCTION: usize = 12;

/// The first characters of a name, for messages.
pub(super) fn brief(s: &str) -> &str {
    s.char_indices().nth(80).map_or(s, |(at, _)| &s[..at])
}

/// The text with a place in it. `token` is the one to be taken next.
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// Where the scan goes on: behind `token`.
    at: usize,
    scanned_line: u32,
    pub token: Token<'a>,
    /// Line of `token`.
    pub line: u32,
    start: usize,
    /// End of the token taken last.
    end: usize,
    /// Elements that initialisers left out so far.
    pub filled: u64,
    /// Statements so far; a function counts as [`FUNCTION`].
    statements: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Result<Self, PtxError> {
        let mut cursor = Cursor {
            text,
            at: 0,
            scanned_line: 1,
            token: Token::End,
            line: 1,
            start: 0,
            end: 0,
            filled: 0,
            statements: 0,
        };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Takes the token.
    pub fn advance(&mut self) -> Result<Token<'a>, PtxError> {
        self.end = self.at;
        self.skip_blanks()?;
        (self.line, self.start) = (self.scanned_line, self.at);
        let next = self.scan()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Counts statements: what a text takes in memory is a bounded multiple of its length only if they are not too many.
    pub fn count_statements(&mut self, statements: usize) -> Result<(), PtxError> {
        self.statements += statements;
        if self.statements > FREE + self.text.len() / DENSITY {
            return self.error(format!("more than {FREE} statements and one for each {DENSITY} bytes of the text"));
        }
        Ok(())
    }

    /// Where `token` begins, for `since`.
    pub fn mark(&self) -> usize {
        self.start
    }

    /// What was written from a mark to the token taken last, in one line and without comments.
    pub fn since(&self, mark: usize) -> String {
        tidy(&self.text[mark..self.end.max(mark)])
    }

    pub fn error<T>(&self, why: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError::new(self.line, why))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) -> Result<(), PtxError> {
        loop {
            let rest = self.rest();
            let bytes = rest.as_bytes();
            let skip = match bytes {
                [b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c, ..] => 1,
                [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
                [b'/', b'*', ..] => match rest[2..].find("*/") {
                    Some(length) => length + 4,
                    None => return Err(PtxError::new(self.scanned_line, "this comment never ends")),
                },
                _ => return Ok(()),
            };
            self.scanned_line += bytes[..skip].iter().filter(|&&b| b == b'\n').count() as u32;
            self.at += skip;
        }
    }

    fn scan(&mut self) -> Result<Token<'a>, PtxError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        let next = rest.as_bytes().get(1).copied().unwrap_or(0);
        let (token, length) = match first {
            '"' => {
                let Some(length) = rest[1..].find(['"', '\n']).filter(|&n| rest.as_bytes()[n + 1] == b'"') else {
                    return self.error("this string never ends");
                };
                (Token::Text(&rest[1..=length]), length + 2)
            }
            '.' if is_name(next) => {
                let length = 1 + dotted_length(&rest[1..]);
                (Token::Dotted(&rest[1..length]), length)
            }
            '0'..='9' => {
                let length = number_length(rest);
                (Token::Number(&rest[..length]), length)
            }
            'a'..='z' | 'A'..='Z' | '_' | '$' | '%' if first != '%' || is_name(next) => {
                let length = 1 + rest[1..].bytes().take_while(|&b| is_name(b)).count();
                (Token::Word(&rest[..length]), length)
            }
            _ if first.is_ascii_graphic() => (Token::Symbol(first), 1),
            _ => return self.error(format!("the character {first:?} means nothing in PTX")),
        };
        self.at += length;
        Ok(token)
    }
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$'
}

/// Bytes of `global`, `L2::128B`.
fn dotted_length(s: &str) -> usize {
    let bytes = s.as_bytes();
    let mut at = 0;
    loop {
        at += bytes[at..].iter().take_while(|&&b| is_name(b)).count();
        match bytes.get(at..at + 3) {
            Some([b':', b':', b]) if is_name(*b) => at += 2,
            _ => return at,
        }
    }
}

/// Bytes of `12U`, `0x1f`, `0f3F800000`, `1.5e-3`.
fn number_length(s: &str) -> usize {
    let bytes = s.as_bytes();
    let letters = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
    let mut at = letters(0);
    let prefixed = matches!(bytes, [b'0', b'x' | b'X' | b'f' | b'F' | b'd' | b'D' | b'b' | b'B', ..]);
    if !prefixed && bytes.get(at) == Some(&b'.') {
        at += 1 + letters(at + 1);
    }
    let signed = matches!(bytes.get(at), Some(b'+' | b'-')) && matches!(bytes[at - 1], b'e' | b'E');
    if !prefixed && signed && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        at += 1 + letters(at + 1);
    }
    at
}

fn tidy(written: &str) -> String {
    let mut out = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(c) = rest.chars().next() {
        let length = match rest.as_bytes() {
            [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => rest[2..].find("*/").map_or(rest.len(), |n| n + 4),
            _ if c.is_whitespace() => c.len_utf8(),
            _ => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
        };
        if !out.ends_with(' ') {
            out.push(' ');
        }
        rest = &rest[length..];
    }
    out.trim_end().to_owned()
}

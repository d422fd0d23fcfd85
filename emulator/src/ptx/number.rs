//! Numbers and constant expressions.
//!
//! Integers are exact until they are used (128 bits hold every 64-bit value and its negation). Floats are bits: `0f` is
//! a single, `0d` and decimals are doubles, as PTX has it.

use super::PtxError;
use super::lex::{Cursor, Token};

/// Parentheses and signs within one another.
const DEPTH: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Integer(i128),
    Single(u32),
    Double(u64),
}

impl Number {
    fn integer(self) -> Option<i128> {
        match self {
            Number::Integer(i) => Some(i),
            _ => None,
        }
    }

    fn negated(self) -> Number {
        match self {
            Number::Integer(i) => Number::Integer(-i),
            Number::Single(bits) => Number::Single(bits ^ 1 << 31),
            Number::Double(bits) => Number::Double(bits ^ 1 << 63),
        }
    }
}

/// Binary operators by how tightly they bind, loosest first.
const LEVELS: [&[&str]; 5] = [&["|"], &["^"], &["&"], &["<<", ">>"], &["+", "-"]];
const PRODUCTS: &[&str] = &["*", "/", "%"];

impl<'a> Cursor<'a> {
    /// A number: a literal, or integers in an expression.
    pub fn number(&mut self) -> Result<Number, PtxError> {
        self.level(LEVELS.len() - 1, 0)
    }

    /// An integer expression.
    pub fn integer(&mut self) -> Result<i128, PtxError> {
        match self.level(0, 0)?.integer() {
            Some(i) => Ok(i),
            None => self.error("a whole number belongs here"),
        }
    }

    /// An integer that fits `u32`.
    pub fn count(&mut self) -> Result<u32, PtxError> {
        let line = self.line;
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| PtxError::new(line, format!("{value} is not a count of 32 bits")))
    }

    fn level(&mut self, level: usize, depth: u32) -> Result<Number, PtxError> {
        let mut left = self.below(level, depth)?;
        while let Some(operator) = self.operator(LEVELS.get(level).copied().unwrap_or(PRODUCTS))? {
            let right = self.below(level, depth)?;
            left = self.combine(operator, left, right)?;
        }
        Ok(left)
    }

    fn below(&mut self, level: usize, depth: u32) -> Result<Number, PtxError> {
        if level < LEVELS.len() { self.level(level + 1, depth) } else { self.unary(depth) }
    }

    /// Takes one of `operators`. The two characters of a shift are two tokens.
    fn operator(&mut self, operators: &[&'static str]) -> Result<Option<&'static str>, PtxError> {
        let Token::Symbol(c) = self.token else { return Ok(None) };
        let Some(&found) = operators.iter().find(|o| o.starts_with(c)) else { return Ok(None) };
        for _ in found.chars() {
            self.expect(c)?;
        }
        Ok(Some(found))
    }

    fn combine(&self, operator: &str, left: Number, right: Number) -> Result<Number, PtxError> {
        let (Some(a), Some(b)) = (left.integer(), right.integer()) else {
            return self.error("constant expressions are of whole numbers");
        };
        let shift = u32::try_from(b).ok().filter(|&b| b < 64);
        let value = match operator {
            "|" => Some(a | b),
            "^" => Some(a ^ b),
            "&" => Some(a & b),
            "<<" => shift.and_then(|b| a.checked_mul(1 << b)),
            ">>" => shift.map(|b| a >> b),
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            "/" => a.checked_div(b),
            _ => a.checked_rem(b),
        };
        match value.filter(|v| (-(1 << 64)..1 << 64).contains(v)) {
            Some(value) => Ok(Number::Integer(value)),
            None => self.error("this constant expression has no 64-bit value"),
        }
    }

    fn unary(&mut self, depth: u32) -> Result<Number, PtxError> {
        if depth > DEPTH {
            return self.error(format!("an expression nests deeper than {DEPTH}"));
        }
        match self.token {
            Token::Symbol('-') => {
                self.advance()?;
                Ok(self.unary(depth + 1)?.negated())
            }
            Token::Symbol('+') => {
                self.advance()?;
                self.unary(depth + 1)
            }
            Token::Symbol('~') => {
                self.advance()?;
                match self.unary(depth + 1)?.integer() {
                    Some(i) => Ok(Number::Integer(!i)),
                    None => self.error("`~` is for whole numbers"),
                }
            }
            Token::Symbol('(') => {
                self.advance()?;
                let value = self.level(0, depth + 1)?;
                self.expect(')')?;
                Ok(value)
            }
            Token::Number(text) => match literal(text) {
                Some(number) => {
                    self.advance()?;
                    Ok(number)
                }
                None => self.error(format!("{} is not a number", self.token)),
            },
            other => self.error(format!("a number belongs here, not {other}")),
        }
    }
}

fn literal(text: &str) -> Option<Number> {
    let hex = |digits: &str, len| {
        let fits = digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    match text.get(..2) {
        Some("0f" | "0F") => return hex(&text[2..], 8).map(|bits| Number::Single(bits as u32)),
        Some("0d" | "0D") => return hex(&text[2..], 16).map(Number::Double),
        _ => {}
    }
    let digits = text.strip_suffix('U').unwrap_or(text);
    let (digits, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0b" | "0B") => (&digits[2..], 2),
        _ if digits.len() > 1 && digits.starts_with('0') && !digits.contains(['.', 'e', 'E']) => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if radix == 10 && digits.contains(['.', 'e', 'E']) {
        return digits.parse::<f64>().ok().map(|v| Number::Double(v.to_bits()));
    }
    u64::from_str_radix(digits, radix).ok().map(|v| Number::Integer(v.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<i128, PtxError> {
        Cursor::new(text)?.integer()
    }

    #[test]
    fn literals() {
        let cases = [("42", 42), ("0x1F", 31), ("0XffU", 255), ("017", 15), ("0b101U", 5), ("0", 0), ("-1", -1)];
        for (text, value) in cases {
            assert_eq!(read(text).unwrap(), value, "{text}");
        }
        assert_eq!(read("0xFFFFFFFFFFFFFFFF").unwrap(), u64::MAX.into());
        for bad in ["0x", "09", "12ab", "0b2", "18446744073709551616", "", "1.5"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn floats_are_bits() {
        let number = |text| Cursor::new(text).unwrap().number().unwrap();
        assert_eq!(number("0f3F800000"), Number::Single(0x3f80_0000));
        assert_eq!(number("0dBFF0000000000000"), Number::Double((-1f64).to_bits()));
        assert_eq!(number("-1.5e-3"), Number::Double((-1.5e-3f64).to_bits()));
        assert_eq!(number("-0f00000000"), Number::Single(1 << 31));
    }

    #[test]
    fn operators_bind_as_in_c() {
        assert_eq!(read("1 + 2 * 3 << 1 | 1").unwrap(), 15);
        assert_eq!(read("(1 + 2) * -3 / 2 % 3").unwrap(), -1);
        assert_eq!(read("~0 & 0xff ^ 1").unwrap(), 254);
        for bad in ["1 / 0", "1 << 64", "1 << 63 << 63", "0xFFFFFFFFFFFFFFFF * 0xFFFFFFFFFFFFFFFF"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&"(".repeat(10_000)).is_err());
        assert!(read(&"-".repeat(10_000)).is_err());
    }
}

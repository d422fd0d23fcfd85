//! The parser: text to `ast`, by recursive descent with one token ahead.
//!
//! It knows the grammar of directives and variables; statements are in `statement`, numbers in `number`. It does not
//! know what an instruction means. Debug sections are skipped.

use std::sync::Arc;

use super::PtxError;
use super::ast::{Function, Init, Linkage, Module, VarSpace, Variable};
use super::lex::{Cursor, FUNCTION, Token};
use super::number::Number;
use super::units::merge;

/// Bytes of text that are read.
pub const LARGEST_TEXT: usize = 256 << 20;
/// Bytes that one variable may have: more than any device holds, so sums of sizes stay far from the end of `u64`.
const LARGEST_VARIABLE: u64 = 1 << 40;
const LARGEST_ALIGN: u32 = 1 << 16;
const DIMENSIONS: usize = 8;
/// Elements that the initialisers of a module may leave out between those that they name.
const LARGEST_FILL: u64 = 1 << 22;

/// Reads a whole text, which may be several units one after the other. Refuses what is not PTX, with the line.
pub fn parse(text: &str) -> Result<Module, PtxError> {
    if text.len() > LARGEST_TEXT {
        return Err(PtxError::new(0, format!("the text has {} bytes, more than 256 MiB", text.len())));
    }
    let mut cursor = Cursor::new(text)?;
    let (mut units, mut unit) = (Vec::new(), Module::default());
    while cursor.token != Token::End {
        if cursor.token == Token::Dotted("version") && unit.version != (0, 0) {
            units.push(std::mem::take(&mut unit));
        }
        cursor.module_item(&mut unit)?;
    }
    units.push(unit);
    Ok(merge(units))
}

impl<'a> Cursor<'a> {
    pub fn expect(&mut self, symbol: char) -> Result<(), PtxError> {
        if self.accept(symbol)? { Ok(()) } else { self.error(format!("`{symbol}` belongs here, not {}", self.token)) }
    }

    pub fn accept(&mut self, symbol: char) -> Result<bool, PtxError> {
        let found = self.token == Token::Symbol(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub fn word(&mut self) -> Result<&'a str, PtxError> {
        let Token::Word(word) = self.token else {
            return self.error(format!("a name belongs here, not {}", self.token));
        };
        self.advance()?;
        Ok(word)
    }

    /// Takes `.name`, if it stands here.
    pub fn dotted(&mut self) -> Result<Option<&'a str>, PtxError> {
        let Token::Dotted(name) = self.token else { return Ok(None) };
        self.advance()?;
        Ok(Some(name))
    }

    fn module_item(&mut self, module: &mut Module) -> Result<(), PtxError> {
        let line = self.line;
        let Some(directive) = self.dotted()? else {
            return self.error(format!("a directive belongs here, not {}", self.token));
        };
        match directive {
            "version" => module.version = self.version()?,
            "target" => {
                module.target_line = line;
                self.target(module)?;
            }
            "address_size" => {
                if self.count()? != 64 {
                    return Err(PtxError::new(line, "only `.address_size 64` can run here"));
                }
            }
            "file" => module.files.extend(self.file()?),
            "section" => self.section()?,
            "pragma" => self.pragma()?,
            "alias" => {
                let alias = self.word()?.to_owned();
                self.expect(',')?;
                module.aliases.push((alias, self.word()?.to_owned()));
                self.expect(';')?;
            }
            _ => {
                let (linkage, directive) = self.linkage(directive)?;
                match directive {
                    "entry" | "func" => module.functions.push(self.function(directive == "entry", linkage, line)?),
                    _ => module.variables.extend(self.variables(directive, linkage, line)?),
                }
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(u32, u32), PtxError> {
        let Token::Number(text) = self.token else { return self.error("a version as `8.0` belongs here") };
        let parts = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let Some(version) = parts else { return self.error(format!("{} is not a version as `8.0`", self.token)) };
        self.advance()?;
        Ok(version)
    }

    fn target(&mut self, module: &mut Module) -> Result<(), PtxError> {
        let name = self.word()?;
        let number = name.strip_prefix("sm_").unwrap_or("");
        let digits = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let suffix = number[digits.len()..].chars().next();
        let Some(target) = digits.parse().ok().filter(|_| number.len() <= digits.len() + 1) else {
            return self.error(format!("`{name}` is not a target as `sm_80`"));
        };
        (module.target, module.target_suffix) = (target, suffix);
        while self.accept(',')? {
            self.word()?;
        }
        Ok(())
    }

    /// `.file 1 "path"`, then perhaps a time and a size.
    pub fn file(&mut self) -> Result<Option<(u32, Arc<str>)>, PtxError> {
        let number = self.count()?;
        let Token::Text(path) = self.token else { return self.error("a path in quotes belongs here") };
        self.advance()?;
        while self.accept(',')? {
            self.integer()?;
        }
        Ok(Some((number, path.into())))
    }

    fn section(&mut self) -> Result<(), PtxError> {
        while !matches!(self.token, Token::Symbol('{') | Token::End) {
            self.advance()?;
        }
        self.expect('{')?;
        let mut open = 1u64;
        while open > 0 {
            match self.advance()? {
                Token::Symbol('{') => open += 1,
                Token::Symbol('}') => open -= 1,
                Token::End => return self.error("this section never ends"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Compiler hints: nothing here takes one.
    pub fn pragma(&mut self) -> Result<(), PtxError> {
        while !self.accept(';')? {
            if !matches!(self.advance()?, Token::Text(_) | Token::Symbol(',')) {
                return self.error("strings and `;` belong to a `.pragma`");
            }
        }
        Ok(())
    }

    /// `.visible` and the like, of which one counts, and the directive behind.
    pub fn linkage(&mut self, mut directive: &'a str) -> Result<(Linkage, &'a str), PtxError> {
        let mut linkage = Linkage::Own;
        loop {
            linkage = match directive {
                "extern" => Linkage::Extern,
                "weak" | "common" => Linkage::Weak,
                "visible" => Linkage::Visible,
                _ => return Ok((linkage, directive)),
            };
            match self.dotted()? {
                Some(next) => directive = next,
                None => return self.error(format!("a directive belongs here, not {}", self.token)),
            }
        }
    }

    fn function(&mut self, entry: bool, linkage: Linkage, line: u32) -> Result<Function, PtxError> {
        self.count_statements(FUNCTION)?;
        self.attribute()?;
        let returns = if self.token == Token::Symbol('(') { self.parameters()? } else { Vec::new() };
        let name = self.word()?.to_owned();
        let params = if self.token == Token::Symbol('(') { self.parameters()? } else { Vec::new() };
        let mut directives = Vec::new();
        while let Some(directive) = self.dotted()? {
            match directive {
                "pragma" => self.pragma()?,
                "attribute" => self.parenthesised()?,
                _ => directives.push((directive.to_owned(), self.counts()?)),
            }
        }
        let body = if self.accept(';')? { None } else { Some(self.block(0)?) };
        Ok(Function { name, entry, linkage, returns, params, directives, body, line })
    }

    fn counts(&mut self) -> Result<Vec<u32>, PtxError> {
        let mut counts = Vec::new();
        if matches!(self.token, Token::Number(_)) {
            counts.push(self.count()?);
            while self.accept(',')? {
                counts.push(self.count()?);
            }
        }
        Ok(counts)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>, PtxError> {
        self.expect('(')?;
        let mut params = Vec::new();
        while !self.accept(')')? {
            let line = self.line;
            match self.dotted()? {
                Some("param") => params.push(self.declare(VarSpace::Param, line)?.0),
                Some("reg") => return self.error("parameters in `.reg` are not known here; use `.param`"),
                _ => return self.error(format!("a `.param` belongs here, not {}", self.token)),
            }
            if self.token != Token::Symbol(')') {
                self.expect(',')?;
            }
        }
        Ok(params)
    }

    /// `.attribute(.managed)` and the like.
    fn attribute(&mut self) -> Result<(), PtxError> {
        if self.token == Token::Dotted("attribute") {
            self.advance()?;
            self.parenthesised()?;
        }
        Ok(())
    }

    fn parenthesised(&mut self) -> Result<(), PtxError> {
        self.expect('(')?;
        while !self.accept(')')? {
            if self.advance()? == Token::End {
                return self.error("`)` is missing");
            }
        }
        Ok(())
    }

    /// The variables of a declaration that began with `.space`.
    pub fn variables(&mut self, space: &str, linkage: Linkage, line: u32) -> Result<Vec<Variable>, PtxError> {
        let space = match space {
            "global" => VarSpace::Global,
            "const" => VarSpace::Const,
            "shared" => VarSpace::Shared,
            "local" => VarSpace::Local,
            "param" => VarSpace::Param,
            other => return Err(PtxError::new(line, format!("the directive `.{other}` is not known here"))),
        };
        let (first, kind) = self.declare(space, line)?;
        let mut all = vec![first];
        self.initialise(&mut all[0], &kind)?;
        while self.accept(',')? {
            let mut next = self.named(&kind, space, self.line)?;
            self.initialise(&mut next.0, &next.1)?;
            all.push(next.0);
        }
        self.expect(';')?;
        all.iter_mut().for_each(|v| v.linkage = linkage);
        Ok(all)
    }

    /// `.align 16 .b8 name[4][2]`, behind the space.
    fn declare(&mut self, space: VarSpace, line: u32) -> Result<(Variable, Kind<'a>), PtxError> {
        let mut kind = Kind { ty: "", element: 0, vector: 1, align: None, dimensions: Vec::new() };
        while let Some(word) = self.dotted()? {
            match word {
                "align" => kind.align = Some(self.alignment()?),
                "ptr" => self.pointer()?,
                "attribute" => self.parenthesised()?,
                "v2" => kind.vector = 2,
                "v4" => kind.vector = 4,
                ty => match element_bytes(ty) {
                    Some(bytes) => (kind.ty, kind.element) = (ty, bytes),
                    None => return Err(PtxError::new(line, format!("variables of `.{ty}` are not known here"))),
                },
            }
        }
        if kind.element == 0 {
            return self.error("this variable has no type");
        }
        self.named(&kind, space, line)
    }

    /// `.ptr .global .align 16`: what a pointer points to, which nothing here depends on.
    fn pointer(&mut self) -> Result<(), PtxError> {
        while let Token::Dotted("global" | "const" | "shared" | "local" | "generic" | "align") = self.token {
            if self.dotted()? == Some("align") {
                self.alignment()?;
            }
        }
        Ok(())
    }

    fn alignment(&mut self) -> Result<u32, PtxError> {
        let align = self.count()?;
        if !align.is_power_of_two() || align > LARGEST_ALIGN {
            return self.error(format!("{align} is not an alignment: a power of two up to {LARGEST_ALIGN}"));
        }
        Ok(align)
    }

    fn named(&mut self, kind: &Kind<'a>, space: VarSpace, line: u32) -> Result<(Variable, Kind<'a>), PtxError> {
        let name = self.word()?.to_owned();
        let mut kind = Kind { dimensions: Vec::new(), ..kind.clone() };
        while self.accept('[')? {
            let size = if self.token == Token::Symbol(']') { None } else { Some(u64::from(self.count()?)) };
            self.expect(']')?;
            if kind.dimensions.len() == DIMENSIONS || (size.is_none() && !kind.dimensions.is_empty()) {
                return self.error(format!("at most {DIMENSIONS} dimensions, and only the first may be open"));
            }
            kind.dimensions.push(size);
        }
        let open = kind.dimensions.first() == Some(&None);
        let inner = if open { &kind.dimensions[1..] } else { &kind.dimensions[..] };
        let count = inner.iter().try_fold(u64::from(kind.vector), |n, d| n.checked_mul(d.unwrap_or(1)));
        let fits = |n: &u64| n.checked_mul(kind.element.into()).is_some_and(|bytes| bytes <= LARGEST_VARIABLE);
        let Some(count) = count.filter(fits) else {
            return self.error(format!("`{name}` is larger than a terabyte"));
        };
        let variable = Variable {
            name,
            space,
            align: kind.align.unwrap_or(kind.element * kind.vector),
            ty: kind.ty.to_owned(),
            element: kind.element,
            count: (!open).then_some(count),
            init: Vec::new(),
            linkage: Linkage::Own,
            line,
        };
        Ok((variable, kind))
    }

    fn initialise(&mut self, variable: &mut Variable, kind: &Kind) -> Result<(), PtxError> {
        if !self.accept('=')? {
            return Ok(());
        }
        if !matches!(variable.space, VarSpace::Global | VarSpace::Const) {
            return self.error("only `.global` and `.const` variables have initialisers");
        }
        let mut dimensions = kind.dimensions.clone();
        if kind.vector > 1 {
            dimensions.push(Some(kind.vector.into()));
        }
        if dimensions.is_empty() {
            variable.init.push(self.element(kind)?);
        } else {
            self.elements(kind, &dimensions, &mut variable.init)?;
        }
        if variable.count.is_some_and(|count| variable.init.len() as u64 > count) {
            return self.error(format!("`{}` has more initialisers than elements", variable.name));
        }
        Ok(())
    }

    /// `{...}` of one dimension; inner ones are filled up with zeros. The depth is that of the dimensions.
    fn elements(&mut self, kind: &Kind, dimensions: &[Option<u64>], out: &mut Vec<Init>) -> Result<(), PtxError> {
        self.expect('{')?;
        while !self.accept('}')? {
            if self.token == Token::Symbol('{') && dimensions.len() > 1 {
                let inner = dimensions[1..].iter().map(|d| d.unwrap_or(1)).product::<u64>();
                let from = out.len() as u64;
                self.elements(kind, &dimensions[1..], out)?;
                let added = (from + inner).checked_sub(out.len() as u64);
                let Some(added) = added else { return self.error("more initialisers than elements in a dimension") };
                self.filled = self.filled.saturating_add(added);
                if self.filled > LARGEST_FILL {
                    return self.error(format!("short initialisers leave out more than {LARGEST_FILL} elements"));
                }
                out.resize((from + inner) as usize, Init::Bits(0));
            } else {
                out.push(self.element(kind)?);
            }
            if self.token != Token::Symbol('}') {
                self.expect(',')?;
            }
        }
        Ok(())
    }

    fn element(&mut self, kind: &Kind) -> Result<Init, PtxError> {
        if matches!(self.token, Token::Word(_)) {
            return self.address();
        }
        let number = self.number()?;
        if self.token == Token::Symbol('(') {
            return self.masked(number);
        }
        match (number, kind.ty) {
            (Number::Integer(i), "f32") => Ok(Init::Bits(u64::from((i as f32).to_bits()))),
            (Number::Integer(i), "f64") => Ok(Init::Bits((i as f64).to_bits())),
            (Number::Integer(i), _) => Ok(Init::Bits(i as u64)),
            (Number::Single(bits), "f64") => Ok(Init::Bits(f64::from(f32::from_bits(bits)).to_bits())),
            (Number::Single(bits), _) => Ok(Init::Bits(bits.into())),
            (Number::Double(bits), "f32") => Ok(Init::Bits((f64::from_bits(bits) as f32).to_bits().into())),
            (Number::Double(bits), _) => Ok(Init::Bits(bits)),
        }
    }

    /// `name`, `name + 4`, `generic(name) + 4`, `mask(0xff, ...)`.
    fn address(&mut self) -> Result<Init, PtxError> {
        let mut name = self.word()?;
        if name == "mask" && self.accept('(')? {
            let mask = Number::Integer(self.integer()?);
            self.expect(',')?;
            let inner = self.address()?;
            self.expect(')')?;
            return self.with_byte(mask, inner);
        }
        let generic = name == "generic" && self.accept('(')?;
        if generic {
            name = self.word()?;
            self.expect(')')?;
        }
        let offset = match self.token {
            Token::Symbol('+' | '-') => self.offset()?,
            _ => 0,
        };
        Ok(Init::Address { name: name.to_owned(), offset, generic, byte: None })
    }

    /// The integer of `+ 4`, `- 4`, `+ -4`.
    pub fn offset(&mut self) -> Result<i64, PtxError> {
        let value = self.integer()?;
        match i64::try_from(value) {
            Ok(value) => Ok(value),
            Err(_) => self.error(format!("the offset {value} is not a 64-bit number")),
        }
    }

    /// `0xff00(name)`: one byte of an address.
    fn masked(&mut self, mask: Number) -> Result<Init, PtxError> {
        self.expect('(')?;
        let inner = self.address()?;
        self.expect(')')?;
        self.with_byte(mask, inner)
    }

    fn with_byte(&mut self, mask: Number, inner: Init) -> Result<Init, PtxError> {
        let byte = (0..8u8).find(|b| mask == Number::Integer(0xff << (8 * b)));
        match (inner, byte) {
            (Init::Address { name, offset, generic, byte: None }, Some(_)) => {
                Ok(Init::Address { name, offset, generic, byte })
            }
            _ => self.error("a mask takes one byte (0xff, 0xff00, ...) of one address"),
        }
    }
}

/// What the names of one declaration share, and the dimensions of one.
#[derive(Clone)]
struct Kind<'a> {
    ty: &'a str,
    element: u32,
    vector: u32,
    align: Option<u32>,
    dimensions: Vec<Option<u64>>,
}

/// Bytes of a scalar type that memory may hold.
pub(super) fn element_bytes(ty: &str) -> Option<u32> {
    Some(match ty {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => return None,
    })
}

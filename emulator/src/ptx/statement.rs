//! Statements of a function's body and the operands of instructions.
//!
//! What a name stands for is not asked here: `%r1`, `$L__BB0_1` and `%tid.x` are all names.

use super::PtxError;
use super::ast::{Block, Instruction, Operand, RegName, Spot, Statement};
use super::lex::{Cursor, Token};
use super::number::Number;

/// Scopes in one another.
const SCOPES: u32 = 64;
/// Brackets in one another, within an operand.
const BRACKETS: u32 = 4;

impl<'a> Cursor<'a> {
    /// `{ ... }`, inside `depth` others.
    pub fn block(&mut self, depth: u32) -> Result<Block, PtxError> {
        self.expect('{')?;
        if depth > SCOPES {
            return self.error(format!("scopes nest deeper than {SCOPES}"));
        }
        let mut block = Block::default();
        while !self.accept('}')? {
            self.statement(depth, &mut block.statements)?;
        }
        block.statements.shrink_to_fit();
        Ok(block)
    }

    fn statement(&mut self, depth: u32, out: &mut Vec<Statement>) -> Result<(), PtxError> {
        self.count_statements(1)?;
        match self.token {
            Token::Symbol('{') => out.push(Statement::Block(self.block(depth + 1)?)),
            Token::Symbol(';') => self.expect(';')?,
            Token::Symbol('@') => {
                let (mark, line) = (self.mark(), self.line);
                self.advance()?;
                let negated = self.accept('!')?;
                let guard = Some((self.word()?.to_owned(), negated));
                let opcode = self.word()?;
                out.push(self.instruction(guard, opcode, mark, line)?);
            }
            Token::Dotted(directive) => self.directive(directive, out)?,
            Token::Word(word) => {
                let (mark, line) = (self.mark(), self.line);
                self.advance()?;
                if self.accept(':')? {
                    out.push(self.labelled(word, line)?);
                } else {
                    out.push(self.instruction(None, word, mark, line)?);
                }
            }
            other => return self.error(format!("a statement belongs here, not {other}")),
        }
        Ok(())
    }

    fn directive(&mut self, directive: &'a str, out: &mut Vec<Statement>) -> Result<(), PtxError> {
        let line = self.line;
        self.advance()?;
        match directive {
            "reg" => out.push(self.registers(line)?),
            "loc" => out.push(self.loc()?),
            "file" => drop(self.file()?),
            "pragma" => self.pragma()?,
            _ => {
                let (linkage, space) = self.linkage(directive)?;
                out.extend(self.variables(space, linkage, line)?.into_iter().map(|v| Statement::Variable(Box::new(v))));
            }
        }
        Ok(())
    }

    fn registers(&mut self, line: u32) -> Result<Statement, PtxError> {
        let Some(ty) = self.dotted()? else { return self.error("this `.reg` has no type") };
        let mut names = Vec::new();
        loop {
            let name = self.word()?.to_owned();
            let count = if self.accept('<')? { Some(self.count_before_bracket()?) } else { None };
            names.push(RegName { name, count });
            if !self.accept(',')? {
                break;
            }
        }
        self.expect(';')?;
        Ok(Statement::Registers { ty: ty.to_owned(), names, line })
    }

    /// The number of `<5>`: no expression, in which `>` would be an operator.
    fn count_before_bracket(&mut self) -> Result<u32, PtxError> {
        let Token::Number(digits) = self.token else { return self.error("a number of registers belongs here") };
        let Ok(count) = digits.parse() else {
            return self.error(format!("{} is not a number of registers", self.token));
        };
        self.advance()?;
        self.expect('>')?;
        Ok(count)
    }

    /// `.loc 1 20 3, function_name $L__info_string0, inlined_at 1 5 3`; the function's name is not kept.
    fn loc(&mut self) -> Result<Statement, PtxError> {
        let (at, mut inlined_at) = (self.spot()?, None);
        while self.accept(',')? {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    if self.accept('+')? {
                        self.advance()?;
                    }
                }
                "inlined_at" => inlined_at = Some(self.spot()?),
                other => return self.error(format!("`{other}` is not known in `.loc`")),
            }
        }
        Ok(Statement::Loc { at, inlined_at })
    }

    fn spot(&mut self) -> Result<Spot, PtxError> {
        let mut plain = || match self.advance()? {
            Token::Number(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(digits.parse().unwrap_or(0)),
            other => self.error(format!("a number belongs here, not {other}")),
        };
        Ok(Spot { file: plain()?, line: plain()?, column: plain()? })
    }

    /// What follows `name:`.
    fn labelled(&mut self, name: &str, line: u32) -> Result<Statement, PtxError> {
        let name = name.to_owned();
        match self.token {
            Token::Dotted("branchtargets" | "calltargets") => {
                let branches = self.dotted()? == Some("branchtargets");
                let mut labels = vec![self.word()?.to_owned()];
                while self.accept(',')? {
                    labels.push(self.word()?.to_owned());
                }
                self.expect(';')?;
                Ok(if branches {
                    Statement::BranchTargets { name, labels, line }
                } else {
                    Statement::CallPrototype { name }
                })
            }
            Token::Dotted("callprototype") => {
                while !self.accept(';')? {
                    if self.advance()? == Token::End {
                        return self.error("`;` is missing");
                    }
                }
                Ok(Statement::CallPrototype { name })
            }
            _ => Ok(Statement::Label { name, line }),
        }
    }

    /// Behind the first word of the opcode.
    fn instruction(
        &mut self,
        guard: Option<(String, bool)>,
        opcode: &str,
        mark: usize,
        line: u32,
    ) -> Result<Statement, PtxError> {
        let mut modifiers = Vec::new();
        while let Some(modifier) = self.dotted()? {
            modifiers.push(modifier.to_owned());
        }
        let mut operands = Vec::new();
        while self.token != Token::Symbol(';') {
            operands.push(self.operand(0)?);
            if self.token != Token::Symbol(';') {
                self.expect(',')?;
            }
        }
        modifiers.shrink_to_fit();
        operands.shrink_to_fit();
        let text = self.since(mark).into();
        self.expect(';')?;
        let opcode = opcode.to_owned();
        Ok(Statement::Instruction(Box::new(Instruction { guard, opcode, modifiers, operands, line, text })))
    }

    fn operand(&mut self, depth: u32) -> Result<Operand, PtxError> {
        let first = self.simple(depth)?;
        if self.token != Token::Symbol('|') {
            return Ok(first);
        }
        self.advance()?;
        Ok(Operand::Pair(Box::new(first), Box::new(self.simple(depth)?)))
    }

    fn simple(&mut self, depth: u32) -> Result<Operand, PtxError> {
        if depth > BRACKETS {
            return self.error(format!("an operand nests deeper than {BRACKETS}"));
        }
        match self.token {
            Token::Word("_") => self.advance().map(|_| Operand::Sink),
            Token::Word(_) => self.name(),
            Token::Symbol('!') => {
                self.advance()?;
                Ok(Operand::Not(self.word()?.to_owned()))
            }
            Token::Symbol('[') => self.memory(depth),
            Token::Symbol('{') => Ok(Operand::Vector(self.list('{', '}', depth)?)),
            Token::Symbol('(') => Ok(Operand::List(self.list('(', ')', depth)?)),
            Token::Number(_) | Token::Symbol('-' | '+' | '~') => Ok(match self.number()? {
                Number::Integer(i) => Operand::Integer(i),
                Number::Single(bits) => Operand::Single(bits),
                Number::Double(bits) => Operand::Double(bits),
            }),
            other => self.error(format!("an operand belongs here, not {other}")),
        }
    }

    fn list(&mut self, open: char, close: char, depth: u32) -> Result<Vec<Operand>, PtxError> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.accept(close)? {
            items.push(self.operand(depth + 1)?);
            if self.token != Token::Symbol(close) {
                self.expect(',')?;
            }
        }
        Ok(items)
    }

    /// `name`, `name.x`, `name + 4`.
    fn name(&mut self) -> Result<Operand, PtxError> {
        let mut name = self.word()?.to_owned();
        if let Some(component) = self.dotted()? {
            name = format!("{name}.{component}");
        }
        match self.token {
            Token::Symbol('+' | '-') => Ok(Operand::NameOffset(name, self.offset()?)),
            _ => Ok(Operand::Name(name)),
        }
    }

    /// `[base + offset, more]`.
    fn memory(&mut self, depth: u32) -> Result<Operand, PtxError> {
        self.expect('[')?;
        let (base, offset) = match self.simple(depth + 1)? {
            Operand::NameOffset(name, offset) => (Operand::Name(name), offset),
            base => (base, 0),
        };
        let mut rest = Vec::new();
        while self.accept(',')? {
            rest.push(self.operand(depth + 1)?);
        }
        self.expect(']')?;
        Ok(Operand::Memory { base: Box::new(base), offset, rest })
    }
}

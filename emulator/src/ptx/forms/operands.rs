//! The operands of one instruction, by the names that its pattern gives them.
//!
//! Owns the rules of PTX for operands: widths of registers, what an immediate means for a type, addresses. It does not
//! know what an instruction does. Sources that are immediates, addresses of variables or fixed special registers become
//! constant rows here; a changing special register (`%clock`) is read into a temporary first.

use super::pattern::{Count, Kind, Pattern, Slot, Width, named};
use super::special;
use crate::isa::{Address, Alu, FloatMods, Op, Pred, Reg, Round, Space, Ty};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ast;
use crate::ptx::names::{Names, Register};

type Result<T> = std::result::Result<T, String>;

/// The slots that an instruction fills, with what it fills them with.
pub(super) type Bound<'a> = Vec<(&'static Slot, &'a ast::Operand)>;

/// What a builder of the table works with.
pub(super) struct Operands<'a> {
    words: &'a [String],
    bound: Bound<'a>,
    pub names: &'a mut dyn Names,
    /// The instructions made so far.
    pub ops: Vec<Op>,
}

/// Pairs the slots of a pattern with what an instruction gives, if shapes and number agree.
pub(super) fn bind<'a>(pattern: &'static Pattern, inst: &'a ast::Instruction, names: &dyn Names) -> Option<Bound<'a>> {
    let hint = inst.modifiers.iter().any(|w| w == "L2::cache_hint");
    let slots: Vec<&Slot> = pattern.slots.iter().filter(|s| s.name != "hint" || hint).collect();
    let needed = |s: &Slot| !s.optional || s.name == "hint";
    let mut spare = inst.operands.len().checked_sub(slots.iter().filter(|s| !s.paired && needed(s)).count())?;
    let mut given = inst.operands.iter();
    let mut bound = Vec::new();
    let mut slots = slots.into_iter().peekable();
    while let Some(slot) = slots.next() {
        let pair = slots.next_if(|s| s.paired);
        if !needed(slot) {
            if spare == 0 {
                continue;
            }
            spare -= 1;
        }
        match (given.next()?, pair) {
            (ast::Operand::Pair(a, b), Some(second)) => bound.extend([(slot, &**a), (second, &**b)]),
            (_, Some(second)) if !second.optional => return None,
            (operand, _) => bound.push((slot, operand)),
        }
    }
    let fits = given.next().is_none() && bound.iter().all(|(slot, o)| fits(slot, o, &inst.modifiers, names));
    fits.then_some(bound)
}

/// Whether an operand has the shape that its slot asks for; types are checked when it is used.
fn fits(slot: &Slot, operand: &ast::Operand, words: &[String], names: &dyn Names) -> bool {
    use ast::Operand as O;
    let predicate = |name: &str| matches!(names.register(name), Some(Register::Predicate(_)));
    match (slot.kind, operand) {
        (Kind::Memory, o) => matches!(o, O::Memory { .. }),
        (Kind::Tensor, O::Memory { rest, .. }) => {
            matches!(&rest[..], [O::Vector(at)] if Some(at.len()) == dimensions(words))
        }
        (Kind::Tensor, _) => false,
        (Kind::Sink, o) => *o == O::Sink,
        (Kind::Number, o) => matches!(o, O::Integer(_)),
        (Kind::Label | Kind::Labels, o) => matches!(o, O::Name(_)),
        (Kind::Predicate { .. }, O::Name(name)) => predicate(name),
        (Kind::Predicate { negatable }, O::Not(name)) => negatable && predicate(name),
        (Kind::Predicate { .. }, o) => matches!(o, O::Integer(_) | O::Sink),
        (Kind::Value(_), O::Vector(items)) => items.len() == many(slot, words) && slot.count != Count::One,
        // A vector that always is one is in braces even if it has one element.
        (Kind::Value(_), _) if many(slot, words) != 1 || matches!(slot.count, Count::Fixed(1) | Count::Matrices) => {
            false
        }
        (Kind::Value(_), O::Name(name)) => !predicate(name),
        (Kind::Value(_), O::NameOffset(..) | O::Integer(_) | O::Double(_) | O::Single(_) | O::Sink) => true,
        (Kind::Value(_), _) => false,
    }
}

/// The registers that an operand consists of.
pub(super) fn many(slot: &Slot, words: &[String]) -> usize {
    let said = |letter| words.iter().find_map(|w| w.strip_prefix(letter)?.parse().ok()).unwrap_or(1);
    match slot.count {
        Count::One => 1,
        Count::Fixed(n) => n,
        Count::Elements => said('v'),
        Count::Matrices => said('x'),
        Count::Columns(share) => columns(words).unwrap_or(share) / share,
    }
}

/// The dimensions of a tensor, as `.2d` says.
pub(super) fn dimensions(words: &[String]) -> Option<usize> {
    words.iter().find_map(|w| w.strip_suffix('d')?.parse().ok())
}

/// The n of the shape among the modifiers.
fn columns(words: &[String]) -> Option<usize> {
    words.iter().find_map(|w| w.strip_prefix("m64n")?.split_once('k')?.0.parse().ok())
}

/// The types among the modifiers: the first, and the second if there is one.
pub(super) fn types(words: &[String]) -> impl Iterator<Item = Ty> {
    words.iter().filter_map(|w| named(w))
}

/// The type of a slot's registers.
pub(super) fn width(slot: &Slot, words: &[String]) -> Ty {
    let first = types(words).next().unwrap_or(Ty::B32);
    match slot.kind {
        Kind::Value(Width::Second) => types(words).nth(1).unwrap_or(first),
        Kind::Value(Width::Twice) => untyped(2 * first.bits()),
        Kind::Value(Width::Of(ty)) => ty,
        _ => first,
    }
}

/// The bit type of this width.
pub(super) fn untyped(bits: u32) -> Ty {
    match bits {
        0..=8 => Ty::B8,
        9..=16 => Ty::B16,
        17..=32 => Ty::B32,
        33..=64 => Ty::B64,
        _ => Ty::B128,
    }
}

impl<'a> Operands<'a> {
    pub fn new(inst: &'a ast::Instruction, bound: Bound<'a>, names: &'a mut dyn Names) -> Self {
        Operands { words: &inst.modifiers, bound, names, ops: Vec::new() }
    }

    /// Whether a modifier is there.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// What the first modifier that means something means.
    pub fn pick<T>(&self, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.words.iter().find_map(|w| meaning(w))
    }

    /// What all modifiers that mean something mean, in order.
    pub fn all<T>(&self, meaning: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.words.iter().filter_map(|w| meaning(w)).collect()
    }

    /// The columns of a `wgmma`.
    pub fn columns(&self) -> Option<usize> {
        columns(self.words)
    }

    /// The first type among the modifiers.
    pub fn ty(&self) -> Ty {
        types(self.words).next().unwrap_or(Ty::B32)
    }

    /// The second type among the modifiers.
    pub fn ty2(&self) -> Ty {
        types(self.words).nth(1).unwrap_or(self.ty())
    }

    /// The state space among the modifiers.
    pub fn space(&self) -> Space {
        let space = |w: &str| {
            Some(match w {
                "global" => Space::Global,
                "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
                "local" => Space::Local,
                "const" => Space::Const,
                "param" | "param::entry" | "param::func" => Space::Param,
                _ => return None,
            })
        };
        self.pick(space).unwrap_or(Space::Generic)
    }

    /// The rounding among the modifiers.
    pub fn round(&self) -> Round {
        let round = |w: &str| {
            Some(match w {
                "rn" | "rni" => Round::Nearest,
                "rz" | "rzi" => Round::Zero,
                "rm" | "rmi" => Round::Down,
                "rp" | "rpi" => Round::Up,
                "rna" => Round::NearestAway,
                _ => return None,
            })
        };
        self.pick(round).unwrap_or_default()
    }

    /// The modifiers of a floating-point operation.
    pub fn float_mods(&self) -> FloatMods {
        FloatMods {
            round: self.round(),
            ftz: self.has("ftz"),
            sat: self.has("sat"),
            relu: self.has("relu"),
            approx: self.has("approx"),
            nan: self.has("NaN"),
            xorsign_abs: self.has("xorsign"),
        }
    }

    pub fn emit(&mut self, op: Op) -> Result<()> {
        self.ops.push(op);
        Ok(())
    }

    pub fn alu(&mut self, alu: Alu) -> Result<()> {
        self.emit(Op::Alu(alu))
    }

    fn find(&self, name: &str) -> Option<(&'static Slot, &'a ast::Operand)> {
        self.bound.iter().find(|(slot, _)| slot.name == name).copied()
    }

    fn get(&self, name: &str) -> Result<(&'static Slot, &'a ast::Operand, Ty)> {
        let (slot, operand) = self.find(name).ok_or_else(|| format!("operand `{name}` is missing"))?;
        Ok((slot, operand, width(slot, self.words)))
    }

    /// Whether an operand was given.
    pub fn given(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A destination as wide as its type.
    pub fn dest(&mut self, name: &str) -> Result<Reg> {
        let (_, operand, ty) = self.get(name)?;
        let (reg, is) = self.register(operand)?;
        exact(operand, is, ty)?;
        Ok(reg)
    }

    /// A destination that may be missing or `_`.
    pub fn dest_some(&mut self, name: &str) -> Result<Option<Reg>> {
        match self.find(name) {
            None | Some((_, ast::Operand::Sink)) => Ok(None),
            Some(_) => self.dest(name).map(Some),
        }
    }

    /// A destination that may also be wider than its type, with the register's width.
    pub fn dest_wide(&mut self, name: &str) -> Result<(Reg, Ty)> {
        let (_, operand, ty) = self.get(name)?;
        let (reg, is) = self.register(operand)?;
        at_least(operand, is, ty)?;
        Ok((reg, untyped(is.bits())))
    }

    /// A source as wide as its type.
    pub fn source(&mut self, name: &str) -> Result<Reg> {
        let (_, operand, ty) = self.get(name)?;
        let operand = match operand {
            ast::Operand::Vector(items) if items.len() == 1 => &items[0],
            operand => operand,
        };
        self.value(operand, ty)
    }

    /// A source that may be missing.
    pub fn source_some(&mut self, name: &str) -> Result<Option<Reg>> {
        if self.given(name) { self.source(name).map(Some) } else { Ok(None) }
    }

    /// A source that may also be wider than its type, with the register's width.
    pub fn source_wide(&mut self, name: &str) -> Result<(Reg, Ty)> {
        let (_, operand, ty) = self.get(name)?;
        if let ast::Operand::Name(text) = operand
            && let Some(Register::Value { reg, ty: is }) = self.names.register(text)
        {
            at_least(operand, is, ty)?;
            return Ok((reg, untyped(is.bits())));
        }
        Ok((self.value(operand, ty)?, untyped(ty.bits())))
    }

    /// The sources that are there, then zeros.
    pub fn sources(&mut self, names: [&str; 3]) -> Result<[Reg; 3]> {
        let zero = self.names.constant(untyped(self.ty().bits()), 0);
        let mut all = [zero; 3];
        for (reg, name) in all.iter_mut().zip(names) {
            if self.given(name) {
                *reg = self.source(name)?;
            }
        }
        Ok(all)
    }

    /// Destinations of a vector, none where `_` stands, with the width of the registers.
    pub fn dest_vector(&mut self, name: &str) -> Result<(Vec<Option<Reg>>, Ty)> {
        let (_, operand, ty) = self.get(name)?;
        let (mut regs, mut width) = (Vec::new(), None);
        for item in items(operand) {
            if *item == ast::Operand::Sink {
                regs.push(None);
                continue;
            }
            let (reg, is) = self.register(item)?;
            at_least(item, is, ty)?;
            alike(&mut width, is)?;
            regs.push(Some(reg));
        }
        Ok((regs, width.unwrap_or(untyped(ty.bits()))))
    }

    /// Sources of a vector with the width of the registers.
    pub fn source_vector(&mut self, name: &str) -> Result<(Vec<Reg>, Ty)> {
        let (_, operand, ty) = self.get(name)?;
        let mut width = None;
        for item in items(operand) {
            if let ast::Operand::Name(text) = item
                && let Some(Register::Value { ty: is, .. }) = self.names.register(text)
            {
                at_least(item, is, ty)?;
                alike(&mut width, is)?;
            }
        }
        // An immediate of a narrow float type does not exist, so widening to the registers' bit type loses nothing.
        let ty = width.filter(|w| w.bits() != ty.bits()).unwrap_or(ty);
        let regs = items(operand).iter().map(|item| self.value(item, ty)).collect::<Result<Vec<_>>>()?;
        Ok((regs, untyped(ty.bits())))
    }

    /// Destinations of a vector, each as wide as its type.
    pub fn dest_all(&mut self, name: &str) -> Result<Box<[Reg]>> {
        let (_, operand, ty) = self.get(name)?;
        items(operand)
            .iter()
            .map(|item| {
                let (reg, is) = self.register(item)?;
                exact(item, is, ty).map(|()| reg)
            })
            .collect()
    }

    /// Sources of a vector, each as wide as its type.
    pub fn source_all(&mut self, name: &str) -> Result<Box<[Reg]>> {
        let (_, operand, ty) = self.get(name)?;
        items(operand).iter().map(|item| self.value(item, ty)).collect()
    }

    /// A predicate as a source.
    pub fn pred(&mut self, name: &str) -> Result<Pred> {
        let (_, operand, _) = self.get(name)?;
        let number = |text: &String| match self.names.register(text) {
            Some(Register::Predicate(p)) => Ok(p),
            _ => Err(format!("`{text}` is not a predicate register")),
        };
        match operand {
            ast::Operand::Name(text) => number(text).map(Pred::If),
            ast::Operand::Not(text) => number(text).map(Pred::Unless),
            ast::Operand::Integer(0) => {
                Err("the predicate operand 0: write it to a register with `mov.pred` first".to_owned())
            }
            ast::Operand::Integer(_) => Ok(Pred::Always),
            _ => Err(format!("operand `{name}` must be a predicate register")),
        }
    }

    /// A predicate as a source that may be missing.
    pub fn pred_some(&mut self, name: &str) -> Result<Option<Pred>> {
        if self.given(name) { self.pred(name).map(Some) } else { Ok(None) }
    }

    /// A predicate to write, which may be missing or `_`.
    pub fn dest_pred_some(&mut self, name: &str) -> Result<Option<u16>> {
        match self.find(name) {
            None | Some((_, ast::Operand::Sink)) => Ok(None),
            Some((_, ast::Operand::Name(text))) => match self.names.register(text) {
                Some(Register::Predicate(p)) => Ok(Some(p)),
                _ => Err(format!("`{text}` is not a predicate register")),
            },
            Some(_) => Err(format!("operand `{name}` must be a predicate register")),
        }
    }

    /// A predicate to write.
    pub fn dest_pred(&mut self, name: &str) -> Result<u16> {
        self.dest_pred_some(name)?.ok_or_else(|| format!("operand `{name}` must be a predicate register"))
    }

    /// A number within the range.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<i128>) -> Result<i128> {
        match self.get(name)?.1 {
            ast::Operand::Integer(n) if range.contains(n) => Ok(*n),
            ast::Operand::Integer(n) => {
                Err(format!("operand `{name}` is {n}, it must be {} to {}", range.start(), range.end()))
            }
            _ => Err(format!("operand `{name}` must be a number")),
        }
    }

    /// The text of a label.
    pub fn label(&self, name: &str) -> Result<&'a str> {
        match self.get(name)?.1 {
            ast::Operand::Name(text) => Ok(text),
            _ => Err(format!("operand `{name}` must be a label")),
        }
    }

    /// A memory operand in the instruction's space.
    pub fn at(&mut self, name: &str) -> Result<(Space, Address)> {
        self.at_space(name, self.space())
    }

    /// A memory operand in a space; a parameter of a device function turns out to be local.
    pub fn at_space(&mut self, name: &str, space: Space) -> Result<(Space, Address)> {
        let (_, operand, _) = self.get(name)?;
        match operand {
            ast::Operand::Memory { base, offset, rest } if rest.is_empty() => self.address(base, *offset, space),
            ast::Operand::Memory { .. } => Err("an address is one register or variable and an offset".to_owned()),
            _ => Err(format!("operand `{name}` must be an address in brackets")),
        }
    }

    /// A tensor map's generic address, and coordinates.
    pub fn tensor(&mut self, name: &str) -> Result<(Address, Box<[Reg]>)> {
        let (_, operand, _) = self.get(name)?;
        let ast::Operand::Memory { base, offset, rest } = operand else {
            return Err(format!("operand `{name}` must be an address in brackets"));
        };
        let (_, map) = self.address(base, *offset, Space::Generic)?;
        let at = rest.iter().flat_map(items).map(|item| self.value(item, Ty::S32)).collect::<Result<_>>()?;
        Ok((map, at))
    }

    /// An address of a space.
    fn address(&mut self, base: &ast::Operand, offset: i64, space: Space) -> Result<(Space, Address)> {
        let fixed = |names: &mut dyn Names, address: u64, offset: i64| Address {
            base: names.constant(Ty::U64, address.into()),
            wide: true,
            offset,
        };
        match base {
            ast::Operand::Integer(n) => Ok((space, fixed(self.names, *n as u64, offset))),
            ast::Operand::Name(text) => match self.names.register(text) {
                Some(Register::Value { reg, ty }) if matches!(ty.bits(), 32 | 64) => {
                    Ok((space, Address { base: reg, wide: ty.bits() == 64, offset }))
                }
                Some(_) => Err(format!("`{text}` holds an address: it must be a 32-bit or 64-bit register")),
                None => {
                    let (space, address) = self.variable_in(text, space)?;
                    Ok((space, fixed(self.names, address, offset)))
                }
            },
            ast::Operand::NameOffset(text, more) => {
                let (space, address) = self.variable_in(text, space)?;
                Ok((space, fixed(self.names, address, offset.wrapping_add(*more))))
            }
            _ => Err("an address is one register or variable and an offset".to_owned()),
        }
    }

    /// A variable's address for an access of `space`.
    fn variable_in(&self, text: &str, space: Space) -> Result<(Space, u64)> {
        let (is, address) = self.names.variable(text).ok_or_else(|| unknown(text))?;
        match (space, is) {
            (Space::Generic, is) => Ok((Space::Generic, address + window(is))),
            (Space::Param, Space::Local) => Ok((Space::Local, address)),
            (space, is) if space == is => Ok((space, address)),
            (space, is) => Err(format!("`{text}` is a variable of {is:?} space, the instruction accesses {space:?}")),
        }
    }

    /// A general register with its declared type.
    fn register(&self, operand: &ast::Operand) -> Result<(Reg, Ty)> {
        let operand = if let ast::Operand::Vector(items) = operand { &items[0] } else { operand };
        let ast::Operand::Name(text) = operand else {
            return Err(format!("a register is needed, not {}", shown(operand)));
        };
        match self.names.register(text) {
            Some(Register::Value { reg, ty }) => Ok((reg, ty)),
            Some(Register::Predicate(_)) => Err(format!("`{text}` is a predicate, a value is needed")),
            None if text.starts_with('%') => Err(format!("`{text}` is not a declared register")),
            None => Err(format!("a register is needed, not `{text}`")),
        }
    }

    /// A source of exactly this type: register, special register, immediate or address of a variable.
    fn value(&mut self, operand: &ast::Operand, ty: Ty) -> Result<Reg> {
        if let Some(bits) = immediate(operand, ty)? {
            return Ok(self.names.constant(ty, bits));
        }
        let (text, offset) = match operand {
            ast::Operand::Name(text) => (text, 0),
            ast::Operand::NameOffset(text, offset) => (text, *offset),
            _ => return Err(format!("a register or an immediate is needed, not {}", shown(operand))),
        };
        match self.names.register(text) {
            Some(Register::Value { reg, ty: is }) if offset == 0 => {
                exact(operand, is, ty)?;
                return Ok(reg);
            }
            Some(_) => return Err(format!("`{text}` is a register, a value is needed")),
            None => {}
        }
        if let Some((reg, is)) = special::register(text, self.names, &mut self.ops)? {
            exact(operand, is, ty)?;
            return Ok(reg);
        }
        let (_, address) = self.names.variable(text).ok_or_else(|| unknown(text))?;
        let address = address.wrapping_add_signed(offset);
        if ty.bits() < 32 || u64::BITS - address.leading_zeros() > ty.bits() {
            return Err(format!("the address of `{text}` does not fit .{ty:?}").to_lowercase());
        }
        Ok(self.names.constant(ty, address.into()))
    }
}

/// The difference between generic addresses and those of a space.
pub(super) fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Generic | Space::Global | Space::Const => 0,
    }
}

fn items(operand: &ast::Operand) -> &[ast::Operand] {
    if let ast::Operand::Vector(items) = operand { items } else { std::slice::from_ref(operand) }
}

/// The bits of an immediate for a type; None if it is none.
fn immediate(operand: &ast::Operand, ty: Ty) -> Result<Option<u128>> {
    let mask = if ty.bits() == 128 { u128::MAX } else { (1 << ty.bits()) - 1 };
    Ok(Some(match (operand, ty) {
        (ast::Operand::Integer(_), Ty::F32 | Ty::F64) => {
            return Err(
                format!("{} is an integer, .{ty:?} needs 0f... or a decimal point", shown(operand)).to_lowercase()
            );
        }
        (ast::Operand::Integer(n), _) => *n as u128 & mask,
        (ast::Operand::Single(bits), Ty::F64) => f64::from(f32::from_bits(*bits)).to_bits().into(),
        (ast::Operand::Single(bits), Ty::F32 | Ty::B32) => (*bits).into(),
        (ast::Operand::Double(bits), Ty::F32) => (f64::from_bits(*bits) as f32).to_bits().into(),
        (ast::Operand::Double(bits), Ty::F64 | Ty::B64) => (*bits).into(),
        (ast::Operand::Single(_) | ast::Operand::Double(_), _) => {
            return Err(format!("a floating-point immediate does not fit .{ty:?}").to_lowercase());
        }
        _ => return Ok(None),
    }))
}

fn exact(operand: &ast::Operand, is: Ty, wanted: Ty) -> Result<()> {
    if is.bits() == wanted.bits() { Ok(()) } else { Err(misfit(operand, is, wanted)) }
}

/// Loads, stores and conversions take wider registers for integers and bits.
fn at_least(operand: &ast::Operand, is: Ty, wanted: Ty) -> Result<()> {
    let float = matches!(wanted, Ty::F32 | Ty::F64 | Ty::F16 | Ty::BF16 | Ty::F16x2 | Ty::BF16x2 | Ty::TF32);
    let fits = if float { is.bits() == wanted.bits() } else { is.bits() >= wanted.bits() };
    if fits { Ok(()) } else { Err(misfit(operand, is, wanted)) }
}

fn alike(width: &mut Option<Ty>, is: Ty) -> Result<()> {
    let is = untyped(is.bits());
    match width.replace(is) {
        Some(other) if other != is => Err("the registers of a vector must be of one width".to_owned()),
        _ => Ok(()),
    }
}

fn misfit(operand: &ast::Operand, is: Ty, wanted: Ty) -> String {
    let (is, wanted_bits) = (is.bits(), wanted.bits());
    format!("{} has {is} bits, .{} needs {wanted_bits}", shown(operand), format!("{wanted:?}").to_lowercase())
}

fn unknown(text: &str) -> String {
    format!("`{text}` is neither a register nor a variable that is declared here")
}

/// An operand as a message names it.
fn shown(operand: &ast::Operand) -> String {
    match operand {
        ast::Operand::Name(text) => format!("`{text}`"),
        ast::Operand::Not(text) => format!("`!{text}`"),
        ast::Operand::NameOffset(text, offset) => format!("`{text}{offset:+}`"),
        ast::Operand::Integer(n) => format!("`{n}`"),
        ast::Operand::Double(_) | ast::Operand::Single(_) => "a floating-point number".to_owned(),
        ast::Operand::Memory { .. } => "an address".to_owned(),
        ast::Operand::Vector(_) | ast::Operand::List(_) => "a vector".to_owned(),
        ast::Operand::Pair(..) => "a pair".to_owned(),
        ast::Operand::Sink => "`_`".to_owned(),
    }
}

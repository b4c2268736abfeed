//! Evaluating the location of a variable in a frame.
//!
//! gimli's own evaluator has no WebAssembly locations, so this is a small stack machine for the operations that compilers
//! emit for WebAssembly. An expression ends with an address in memory, a value, or pieces of a value.
//!
//! Expressions are untrusted. There are no jumps, so each operation runs once, and the numbers of operations, operands
//! and bytes are limited.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use gimli::{DieReference, Expression, Operation, Reader, UnitOffset, UnitRef};

use super::Debug;
use super::types::byte_size;
use super::units::{Attribute, Cursor};
use crate::budget::BudgetReader;
use crate::frame_state::{Bits, Class, FrameState};
use crate::limits::{MAX_LOCATION_OPERANDS, MAX_LOCATION_STEPS, MAX_PIECE_BYTES};
use crate::module::Assignment;
use crate::value::Unknown;

/// The place of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// The value is at this address of the first memory.
    Memory(u64),
    /// The value is a number.
    Number(Number),
    /// The value has these bytes.
    Bytes(Vec<u8>),
    /// The value consists of pieces, in order.
    Pieces(Vec<Piece>),
    /// The value is not known.
    Unknown(Unknown),
}

impl Storage {
    /// Returns the place of a constant.
    ///
    /// # Errors
    /// Returns an error if the constant cannot be read.
    pub fn constant(value: &Attribute<'_>) -> gimli::Result<Self> {
        Ok(match value {
            gimli::AttributeValue::Sdata(value) => {
                Self::Number(Number::constant(i128::from(*value).cast_unsigned(), true))
            }
            gimli::AttributeValue::Data16(bits) => Self::Bytes(bits.to_le_bytes().to_vec()),
            gimli::AttributeValue::Block(block) => match block.len() as u64 {
                0..=MAX_PIECE_BYTES => Self::Bytes(block.to_slice()?.into_owned()),
                _ => Self::Unknown(Unknown::Unsupported("large constants".into())),
            },
            gimli::AttributeValue::String(text) => {
                let mut bytes = text.to_slice()?.into_owned();
                bytes.push(0);
                Self::Bytes(bytes)
            }
            value => match value.udata_value() {
                Some(value) => Self::Number(Number::constant(value.into(), false)),
                None => Self::Unknown(Unknown::Unsupported("form of a constant".into())),
            },
        })
    }
}

/// A piece of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The size in bytes.
    pub bytes: u64,
    pub storage: Storage,
}

/// A number on the stack of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    pub bits: u128,
    /// The size in bytes.
    pub bytes: u8,
    pub class: Class,
    /// Whether the number is signed, where it is converted to a larger type.
    pub signed: bool,
    /// Whether the expression gave the number a type. Other integers have 64 bits: LLVM relies on that in DWARF 4.
    typed: bool,
    /// Whether the number was calculated from an untyped place of 32 bits. Then it is not known whether the producer
    /// meant signed operations on it to have 32 or 64 bits.
    narrow: bool,
    /// Whether the number may be converted to a larger type: a constant, or the result of a calculation.
    pub extends: bool,
    /// The local, operand or global that has the number, for messages.
    pub origin: Option<&'static str>,
}

/// An error that ends the lookup of a variable, or of everything.
#[derive(Debug)]
pub enum Stop {
    /// The dump cannot be read.
    Dump(corestream::Error),
    /// The debugging information is malformed.
    Debug(gimli::Error),
}

impl From<corestream::Error> for Stop {
    fn from(error: corestream::Error) -> Self {
        Self::Dump(error)
    }
}

impl From<gimli::Error> for Stop {
    fn from(error: gimli::Error) -> Self {
        Self::Debug(error)
    }
}

/// The frame in which locations are evaluated.
pub struct Evaluator<'e, 's, 'd, 'b> {
    pub debug: &'e Debug<'b>,
    pub unit: UnitRef<'e, BudgetReader<'b>>,
    pub state: FrameState<'s, 'd>,
    /// The DWARF address of the code position. `None` for static variables.
    pub address: Option<u64>,
    /// The frame base, if the frame has one.
    pub frame_base: Result<Number, Unknown>,
    /// The instructions of the function that assign to locals.
    assignments: &'e [Assignment],
    /// The locals that the last location used.
    used_locals: RefCell<Vec<u32>>,
    /// The beginning of the range of the last location, if it has one.
    range_begin: Cell<Option<u64>>,
    /// The place of the last location that may have been reused.
    reused: RefCell<Option<String>>,
    /// Whether a location was in a local of another type.
    has_wrong_type: Cell<bool>,
}

/// The function in which locations are evaluated.
#[derive(Clone, Copy)]
pub struct FunctionSite<'e> {
    /// The entry of the function.
    pub entry: UnitOffset<usize>,
    /// The DWARF address of the code position.
    pub address: u64,
    /// The instructions of the function that assign to locals.
    pub assignments: &'e [Assignment],
}

/// The result of an operation: the reason ends the evaluation.
type Step<T> = Result<Result<T, Unknown>, Stop>;

impl<'e, 's, 'd, 'b> Evaluator<'e, 's, 'd, 'b> {
    /// Creates an evaluator for the variables of a function, or for static variables.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the frame base is malformed.
    pub fn new(
        debug: &'e Debug<'b>,
        unit: UnitRef<'e, BudgetReader<'b>>,
        state: FrameState<'s, 'd>,
        function: Option<FunctionSite<'e>>,
    ) -> Result<Self, Stop> {
        let mut evaluator = Self {
            debug,
            unit,
            state,
            address: function.map(|function| function.address),
            frame_base: Err(Unknown::NoFrameBase),
            assignments: function.map_or(&[], |function| function.assignments),
            used_locals: RefCell::default(),
            reused: RefCell::default(),
            range_begin: Cell::default(),
            has_wrong_type: Cell::default(),
        };
        let base = match function {
            Some(function) => unit.entry(function.entry)?.attr_value(gimli::DW_AT_frame_base),
            None => None,
        };
        if let Some(base) = base {
            evaluator.frame_base = match evaluator.locate(base)? {
                // Without DW_OP_stack_value, the local that the expression names holds the frame base too.
                Storage::Memory(address) => Ok(Number::address(address, unit)),
                Storage::Number(number)
                    if number.class == Class::Integer
                        && (number.extends || number.bytes <= unit.encoding().address_size) =>
                {
                    Ok(number)
                }
                Storage::Number(number) => {
                    evaluator.note_wrong_type();
                    Err(Unknown::WrongType(number.describe_mismatch("a frame base")))
                }
                Storage::Unknown(reason) => Err(reason),
                Storage::Bytes(_) | Storage::Pieces(_) => Err(Unknown::NoFrameBase),
            };
        }
        Ok(evaluator)
    }

    /// Evaluates a location attribute.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the debugging information is malformed.
    pub fn locate(&self, location: Attribute<'b>) -> Result<Storage, Stop> {
        self.used_locals.borrow_mut().clear();
        *self.reused.borrow_mut() = None;
        self.range_begin.set(None);
        if let Some(expression) = location.exprloc_value() {
            let found = self.evaluate(expression, None)?;
            self.find_reused(0..u64::MAX)?;
            return Ok(found);
        }
        let Some(mut list) = self.unit.attr_locations(location)? else {
            return Ok(Storage::Unknown(Unknown::Unsupported("kind of location".into())));
        };
        while let Some(entry) = list.next()? {
            if self.address.is_some_and(|at| (entry.range.begin..entry.range.end).contains(&at)) {
                let found = self.evaluate(entry.data, None)?;
                self.range_begin.set(Some(entry.range.begin));
                self.find_reused(entry.range.begin..entry.range.end)?;
                return Ok(found);
            }
        }
        Ok(Storage::Unknown(Unknown::OptimizedOut))
    }

    /// Looks for assignments to the locals of the last location within its range.
    ///
    /// The instruction that gives the local the variable's value is before the range. LLVM joins ranges with the same
    /// local, so an assignment within a range can be one of the program, such as `i++` in a loop; but LLVM also reuses
    /// locals of variables that are no longer needed, without ending their ranges.
    ///
    /// # Errors
    /// Returns an error if the budget is spent.
    fn find_reused(&self, range: Range<u64>) -> gimli::Result<()> {
        let used = self.used_locals.borrow();
        if used.is_empty() {
            return Ok(());
        }
        let begin = self.assignments.partition_point(|at| at.address < range.start);
        for at in self.assignments.iter().skip(begin).take_while(|at| at.address < range.end) {
            self.debug.take_steps(1)?;
            if used.contains(&at.local) {
                *self.reused.borrow_mut() = Some(format!("local {}", at.local));
                break;
            }
        }
        Ok(())
    }

    /// Returns the place of the last location that may have been reused.
    pub fn reused(&self) -> Option<String> {
        self.reused.borrow().clone()
    }

    /// Returns the start of the range and the local, if the last location has a range and used exactly one local.
    pub fn claim(&self) -> Option<(u64, u32)> {
        match self.used_locals.borrow()[..] {
            [local] => Some((self.range_begin.get()?, local)),
            _ => None,
        }
    }

    /// Returns whether the last location used a local.
    pub fn uses_locals(&self) -> bool {
        !self.used_locals.borrow().is_empty()
    }

    /// Returns whether any location was in a local of another type than the variable.
    pub fn has_wrong_type(&self) -> bool {
        self.has_wrong_type.get()
    }

    /// Records that a location is in a local of another type than the variable.
    pub fn note_wrong_type(&self) {
        if self.uses_locals() {
            self.has_wrong_type.set(true);
        }
    }

    /// Evaluates an expression. `object` is the address of the object of which the expression locates a member.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the debugging information is malformed.
    pub fn evaluate(
        &self,
        expression: Expression<BudgetReader<'b>>,
        object: Option<u64>,
    ) -> Result<Storage, Stop> {
        let address_size = self.unit.encoding().address_size;
        let mut stack = Vec::new();
        stack.extend(object.map(|address| Number::address(address, self.unit)));
        let mut pieces: Vec<Piece> = Vec::new();
        let mut whole = 0;
        // The complete location of a piece or of the whole variable.
        let mut done: Option<Storage> = None;
        let mut operations = expression.operations(self.unit.encoding());
        for step in 0.. {
            let Some(operation) = operations.next()? else { break };
            if step >= MAX_LOCATION_STEPS || stack.len() > MAX_LOCATION_OPERANDS {
                return Ok(Storage::Unknown(Unknown::Malformed("the location is too long".into())));
            }
            match operation {
                Operation::Piece { size_in_bits, bit_offset } => {
                    let is_whole = size_in_bits.is_multiple_of(8) && bit_offset.unwrap_or(0) == 0;
                    let bytes = size_in_bits / 8;
                    if !is_whole || whole + bytes > MAX_PIECE_BYTES {
                        let what = "pieces of bits, or large ones".into();
                        return Ok(Storage::Unknown(Unknown::Unsupported(what)));
                    }
                    whole += bytes;
                    let top = done
                        .take()
                        .or_else(|| stack.pop().map(|top| top.into_address(address_size)));
                    let storage = top.unwrap_or(Storage::Unknown(Unknown::OptimizedOut));
                    pieces.push(Piece { bytes, storage });
                    stack.clear();
                }
                // The rest of an unknown piece.
                _ if matches!(done, Some(Storage::Unknown(_))) => {}
                Operation::StackValue => {
                    done = stack.pop().map(Storage::Number);
                }
                Operation::ImplicitValue { data } => {
                    let bytes = data.to_slice()?;
                    if bytes.len() as u64 > MAX_PIECE_BYTES {
                        let what = "large implicit values".into();
                        return Ok(Storage::Unknown(Unknown::Unsupported(what)));
                    }
                    done = Some(Storage::Bytes(bytes.into_owned()));
                }
                Operation::ImplicitPointer { .. } => {
                    done = Some(Storage::Unknown(Unknown::NoAddress));
                }
                _ if done.is_some() => return Err(gimli::Error::InvalidPiece.into()),
                operation => match self.step(&mut stack, operation)? {
                    Ok(()) => {}
                    Err(reason) => done = Some(Storage::Unknown(reason)),
                },
            }
        }
        if !pieces.is_empty() {
            return Ok(Storage::Pieces(pieces));
        }
        let top = || stack.pop().map(|top| top.into_address(address_size));
        Ok(done.or_else(top).unwrap_or(Storage::Unknown(Unknown::OptimizedOut)))
    }

    fn step(&self, stack: &mut Vec<Number>, operation: Operation<BudgetReader<'b>>) -> Step<()> {
        let address_size = self.unit.encoding().address_size;
        let malformed = || Ok(Err(Unknown::Malformed("the location lacks an operand".into())));
        let number = match operation {
            Operation::Nop => return Ok(Ok(())),
            Operation::WasmLocal { index } => match self.state.local(index) {
                Ok(bits) => {
                    self.used_locals.borrow_mut().push(index);
                    Number::from_bits(bits, "local")
                }
                Err(reason) => return Ok(Err(reason)),
            },
            Operation::WasmStack { index } => match self.state.operand(index) {
                Ok(bits) => {
                    // The compiler does not end a range where the operand is used up.
                    *self.reused.borrow_mut() = Some(format!("operand {index}"));
                    Number::from_bits(bits, "operand")
                }
                Err(reason) => return Ok(Err(reason)),
            },
            // The linker's number for a symbol that does not exist, such as the base of thread-local variables.
            Operation::WasmGlobal { index: u32::MAX } => return Ok(Err(Unknown::Removed)),
            Operation::WasmGlobal { index } => match self.state.global(index)? {
                Ok(bits) => Number::from_bits(bits, "global"),
                Err(reason) => return Ok(Err(reason)),
            },
            // The linker gives the last address to variables that it has removed.
            Operation::Address { address } if u128::from(address) == mask(address_size) => {
                return Ok(Err(Unknown::Removed));
            }
            Operation::Address { address } => Number::address(address, self.unit),
            Operation::AddressIndex { index } | Operation::ConstantIndex { index } => {
                match self.unit.address(index)? {
                    removed if u128::from(removed) == mask(address_size) => {
                        return Ok(Err(Unknown::Removed));
                    }
                    address => Number::address(address, self.unit),
                }
            }
            Operation::UnsignedConstant { value } => Number::constant(value.into(), false),
            Operation::SignedConstant { value } => {
                Number::constant(i128::from(value).cast_unsigned(), true)
            }
            Operation::FrameOffset { offset } => match &self.frame_base {
                Ok(base) => {
                    base.clone().add(&Number::constant(i128::from(offset).cast_unsigned(), true))
                }
                Err(reason) => return Ok(Err(reason.clone())),
            },
            Operation::PlusConstant { value } => {
                let Some(top) = stack.pop() else { return malformed() };
                top.add(&Number::constant(value.into(), false))
            }
            Operation::Pick { index } => {
                let at = stack.len().checked_sub(usize::from(index) + 1);
                let Some(number) = at.and_then(|at| stack.get(at).cloned()) else {
                    return malformed();
                };
                number
            }
            Operation::Drop => {
                return if stack.pop().is_some() { Ok(Ok(())) } else { malformed() };
            }
            Operation::Swap => {
                let (Some(top), Some(next)) = (stack.pop(), stack.pop()) else {
                    return malformed();
                };
                stack.push(top);
                next
            }
            Operation::Deref { size, space: false, .. } => {
                let Some(top) = stack.pop() else { return malformed() };
                let mut bytes = [0; 8];
                let size = usize::from(size).min(8);
                let Some(part) = bytes.get_mut(..size) else { return malformed() };
                match self.state.read(top.to_address(address_size), part)? {
                    Ok(()) => Number {
                        bits: u64::from_le_bytes(bytes).into(),
                        bytes: address_size,
                        ..Number::constant(0, false)
                    },
                    Err(reason) => return Ok(Err(reason)),
                }
            }
            Operation::TypedLiteral { base_type, value } => {
                let bytes = value.to_slice()?;
                let mut bits = [0; 16];
                let Some(part) = bits.get_mut(..bytes.len()) else { return malformed() };
                part.copy_from_slice(&bytes);
                let number = Number::constant(u128::from_le_bytes(bits), false);
                self.typed(number, base_type, false)?
            }
            Operation::Convert { base_type } => {
                let Some(top) = stack.pop() else { return malformed() };
                self.typed(top, base_type, true)?
            }
            Operation::Reinterpret { base_type } => {
                let Some(top) = stack.pop() else { return malformed() };
                self.typed(top, base_type, false)?
            }
            Operation::Neg | Operation::Not | Operation::Abs => {
                let Some(top) = stack.pop() else { return malformed() };
                match top.unary(&operation) {
                    Some(number) => number,
                    None => return Ok(Err(unsupported(&operation))),
                }
            }
            Operation::EntryValue { .. } | Operation::ParameterRef { .. } => {
                let what = "values at the entry of the function".into();
                return Ok(Err(Unknown::Unsupported(what)));
            }
            Operation::VariableValue { .. }
            | Operation::Call {
                offset: DieReference::UnitRef(_) | DieReference::DebugInfoRef(_),
            } => {
                return Ok(Err(unsupported(&operation)));
            }
            operation => {
                let (Some(right), Some(left)) = (stack.pop(), stack.pop()) else {
                    return Ok(Err(unsupported(&operation)));
                };
                match left.binary(&operation, &right) {
                    Some(number) => number,
                    None => return Ok(Err(unsupported(&operation))),
                }
            }
        };
        stack.push(number);
        Ok(Ok(()))
    }

    /// Gives a number the type of a base type. `convert` keeps the value of an integer, otherwise the bits are kept.
    fn typed(
        &self,
        number: Number,
        base_type: UnitOffset<usize>,
        convert: bool,
    ) -> Result<Number, Stop> {
        let address_size = self.unit.encoding().address_size;
        let (bytes, encoding) = if base_type.0 == 0 {
            (address_size, None)
        } else {
            let entry = Cursor { unit: self.unit, at: base_type }.entry()?;
            let bytes = byte_size(&entry).and_then(|size| u8::try_from(size).ok());
            (
                bytes.filter(|bytes| *bytes <= 16).unwrap_or(address_size),
                entry.attr_value(gimli::DW_AT_encoding),
            )
        };
        let signed = matches!(
            encoding,
            Some(gimli::AttributeValue::Encoding(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char))
        );
        let bits = if convert { number.extended() } else { number.bits };
        let class = match encoding {
            Some(gimli::AttributeValue::Encoding(gimli::DW_ATE_float)) => Class::Float,
            _ => Class::Integer,
        };
        let bits = bits & mask(bytes);
        let origin = number.origin;
        Ok(Number { bits, bytes, class, signed, typed: true, narrow: false, extends: true, origin })
    }
}

fn unsupported(operation: &Operation<BudgetReader<'_>>) -> Unknown {
    let name = format!("{operation:?}");
    // The fields of an operation do not matter.
    let end = name.find([' ', '{', '(']).unwrap_or(name.len());
    Unknown::Unsupported(format!("operation {} in a location", name.get(..end).unwrap_or_default()))
}

/// Returns a mask for a number of bytes, at most 16.
fn mask(bytes: u8) -> u128 {
    match bytes {
        16.. => u128::MAX,
        _ => (1 << (u32::from(bytes) * 8)) - 1,
    }
}

impl Number {
    fn from_bits(Bits { bits, bytes, class }: Bits, origin: &'static str) -> Self {
        let narrow = bytes == 4;
        let origin = Some(origin);
        Self { bits, bytes, class, signed: false, typed: false, narrow, extends: false, origin }
    }

    fn address<'b>(address: u64, unit: UnitRef<'_, BudgetReader<'b>>) -> Self {
        let bytes = unit.encoding().address_size;
        Self { bits: address.into(), bytes, ..Self::constant(0, false) }
    }

    fn constant(bits: u128, signed: bool) -> Self {
        // A constant takes the size of the number that it is added to.
        Self {
            bits,
            bytes: 0,
            class: Class::Integer,
            signed,
            typed: false,
            narrow: false,
            extends: true,
            origin: None,
        }
    }

    /// Returns the place at an address, which wraps around at the end of the address space as in the guest. The linker
    /// gives the last address to variables that it has removed.
    fn into_address(self, address_size: u8) -> Storage {
        let address = self.to_address(address_size);
        match self.class {
            Class::Integer if u128::from(address) == mask(address_size) => {
                Storage::Unknown(Unknown::Removed)
            }
            Class::Integer => Storage::Memory(address),
            _ => Storage::Unknown(Unknown::WrongType(self.describe_mismatch("an address"))),
        }
    }

    /// Returns the message for a number that does not fit a type.
    pub fn describe_mismatch(&self, expected: &str) -> String {
        let origin = self.origin.unwrap_or("location");
        let class = match self.class {
            Class::Integer => "an integer",
            Class::Float => "a float",
            Class::Vector => "a vector",
        };
        format!("the {origin} is {class} of {} bytes, not {expected}", self.bytes)
    }

    #[allow(clippy::cast_possible_truncation, reason = "an address has at most 64 bits")]
    fn to_address(&self, address_size: u8) -> u64 {
        (self.bits & mask(address_size.min(8))) as u64
    }

    /// Returns the bits, extended to 128 bits.
    pub fn extended(&self) -> u128 {
        match self.bytes {
            0 | 16.. => self.bits,
            bytes if self.signed => {
                let unused = 128 - u32::from(bytes) * 8;
                ((self.bits << unused).cast_signed() >> unused).cast_unsigned()
            }
            _ => self.bits,
        }
    }

    fn add(&self, other: &Self) -> Self {
        self.combine(other, |left, right| left.wrapping_add(right))
    }

    /// Calculates with two integers. A result with a type has the size of the type, others have 64 bits.
    fn combine(&self, other: &Self, f: impl Fn(u128, u128) -> u128) -> Self {
        let typed = self.typed || other.typed;
        let bytes = match (self.typed, other.typed) {
            (true, true) => self.bytes.max(other.bytes),
            (true, false) => self.bytes,
            (false, true) => other.bytes,
            (false, false) => 8,
        };
        let bits = f(self.extended(), other.extended()) & mask(bytes);
        Self {
            bits,
            bytes,
            class: Class::Integer,
            signed: self.signed && other.signed,
            typed,
            narrow: !typed && (self.narrow || other.narrow),
            extends: typed || bytes == 8,
            origin: self.origin.or(other.origin),
        }
    }

    /// Returns the number as a signed one, or `None` if it is not known how many bits it has.
    fn to_signed(&self) -> Option<i128> {
        let sign_extend = |bits: u32| (self.bits << (128 - bits)).cast_signed() >> (128 - bits);
        if self.typed {
            return Some(sign_extend((u32::from(self.bytes) * 8).clamp(1, 128)));
        }
        let wide = sign_extend(64);
        (!self.narrow || wide == sign_extend(32)).then_some(wide)
    }

    fn unary(&self, operation: &Operation<BudgetReader<'_>>) -> Option<Self> {
        if self.class != Class::Integer {
            return None;
        }
        let zero = Self::constant(0, self.signed);
        Some(match operation {
            Operation::Neg => zero.combine(self, |_, x| x.wrapping_neg()),
            Operation::Not => zero.combine(self, |_, x| !x),
            Operation::Abs => {
                zero.combine(self, |_, x| x.cast_signed().wrapping_abs().cast_unsigned())
            }
            _ => return None,
        })
    }

    fn binary(&self, operation: &Operation<BudgetReader<'_>>, right: &Self) -> Option<Self> {
        if self.class != Class::Integer || right.class != Class::Integer {
            return None;
        }
        let shift = u32::try_from(right.bits).ok();
        let truth = |truth: bool| Some(Self::constant(truth.into(), false));
        let signed = || Some((self.to_signed()?, right.to_signed()?));
        Some(match operation {
            Operation::Plus => self.add(right),
            Operation::Minus => self.combine(right, u128::wrapping_sub),
            Operation::Mul => self.combine(right, u128::wrapping_mul),
            Operation::And => self.combine(right, |x, y| x & y),
            Operation::Or => self.combine(right, |x, y| x | y),
            Operation::Xor => self.combine(right, |x, y| x ^ y),
            Operation::Shl => {
                let shift = shift?;
                self.combine(right, |x, _| x.checked_shl(shift).unwrap_or(0))
            }
            Operation::Shr => {
                let shift = shift?;
                self.combine(right, |x, _| {
                    (x & u128::from(u64::MAX)).checked_shr(shift).unwrap_or(0)
                })
            }
            Operation::Shra => {
                let shifted = self.to_signed()? >> shift?.min(127);
                self.combine(right, |_, _| shifted.cast_unsigned())
            }
            Operation::Div => {
                let (left, right_signed) = signed()?;
                let quotient = left.checked_div(right_signed)?;
                self.combine(right, |_, _| quotient.cast_unsigned())
            }
            Operation::Mod => {
                // Producers use this operation for signed and for unsigned remainders.
                let (left, right_signed) = signed()?;
                if left < 0 || right_signed < 0 {
                    return None;
                }
                let rest = left.checked_rem(right_signed)?;
                self.combine(right, |_, _| rest.cast_unsigned())
            }
            Operation::Eq => return signed().and_then(|(left, right)| truth(left == right)),
            Operation::Ne => return signed().and_then(|(left, right)| truth(left != right)),
            Operation::Lt | Operation::Le | Operation::Gt | Operation::Ge => {
                // Producers use these operations for signed and for unsigned numbers.
                let (left, right) = signed().filter(|(left, right)| *left >= 0 && *right >= 0)?;
                return truth(match operation {
                    Operation::Lt => left < right,
                    Operation::Le => left <= right,
                    Operation::Gt => left > right,
                    _ => left >= right,
                });
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(bits: u32) -> Number {
        Number::from_bits(Bits { bits: bits.into(), bytes: 4, class: Class::Integer }, "local")
    }

    fn constant(bits: u64) -> Number {
        Number::constant(bits.into(), false)
    }

    #[test]
    fn addresses_wrap_around_as_in_the_guest() {
        // A local of -2 plus 0x1002.
        let sum = local(0xffff_fffe).add(&constant(0x1002));
        assert_eq!(sum.clone().into_address(4), Storage::Memory(0x1000));
        assert_eq!(sum.into_address(8), Storage::Memory(0x1_0000_1000));
        let below = local(0x10).add(&Number::constant((-0x20_i128).cast_unsigned(), true));
        assert_eq!(below.into_address(4), Storage::Memory(0xffff_fff0));
        let removed = Storage::Unknown(Unknown::Removed);
        assert_eq!(local(u32::MAX).into_address(4), removed);
        let float = Number { class: Class::Float, ..local(0) };
        assert!(matches!(float.into_address(4), Storage::Unknown(Unknown::WrongType(_))));
    }

    /// LLVM extends a 32-bit local in DWARF 4 so: `dup, 31, shr, 0, not, mul, 32, shl, or`.
    #[test]
    fn extends_a_local_as_llvm_writes_it() {
        for (value, expected) in [(0xffff_fffd_u32, -3_i64), (3, 3)] {
            let local = local(value);
            let sign = local.binary(&Operation::Shr, &constant(31)).unwrap();
            let ones = constant(0).unary(&Operation::Not).unwrap();
            let high = sign.binary(&Operation::Mul, &ones).unwrap();
            let high = high.binary(&Operation::Shl, &constant(32)).unwrap();
            let whole = local.binary(&Operation::Or, &high).unwrap();
            assert_eq!((whole.bits, whole.bytes), (expected.cast_unsigned().into(), 8));
        }
    }

    #[test]
    fn signed_operations_need_a_known_width() {
        let minus_five = constant((-5_i64 << 32).cast_unsigned());
        let shifted = minus_five.binary(&Operation::Shra, &constant(32)).unwrap();
        assert_eq!(shifted.bits, u128::from((-5_i64).cast_unsigned()));
        // -3 with 32 bits, and 4294967293 with 64.
        let doubtful = local(0xffff_fffd);
        for operation in [Operation::Div, Operation::Mod, Operation::Shra, Operation::Lt] {
            assert_eq!(doubtful.binary(&operation, &constant(4)), None, "{operation:?}");
            assert!(local(9).binary(&operation, &constant(4)).is_some(), "{operation:?}");
        }
        // A producer can mean a signed or an unsigned remainder.
        assert_eq!(minus_five.binary(&Operation::Mod, &constant(4)), None);
        assert_eq!(local(9).binary(&Operation::Mod, &constant(4)).unwrap().bits, 1);
        assert_eq!(local(9).binary(&Operation::Div, &constant(0)), None);
    }
}

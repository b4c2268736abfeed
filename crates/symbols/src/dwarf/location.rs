//! Evaluating the location of a variable in a frame.
//!
//! gimli's own evaluator has no WebAssembly locations, so this is a small stack machine for the operations that compilers
//! emit for WebAssembly. An expression ends with an address in memory, a value, or pieces of a value.
//!
//! Expressions are untrusted. There are no jumps, so each operation runs once, and the numbers of operations, operands
//! and bytes are limited.

use std::ops::Range;

use gimli::{DieReference, Expression, Operation, Reader, UnitOffset, UnitRef};

use super::Debug;
use super::number::{Number, mask};
use super::types::byte_size;
use super::units::{Attribute, Cursor};
use crate::budget::BudgetReader;
use crate::frame_state::{Class, FrameState};
use crate::limits::{MAX_LOCATION_OPERANDS, MAX_LOCATION_STEPS, MAX_PIECE_BYTES};
use crate::module::Assignments;
use crate::value::{FramePlace, Unknown};

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
    /// Interprets a number as an address.
    fn at(number: &Number, address_size: u8) -> Self {
        number.to_address(address_size).map_or_else(Self::Unknown, Self::Memory)
    }

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
    /// The places in which the frame base is.
    base_used: UsedPlaces,
    /// The instructions of the function that assign to locals, or the reason why they are not known.
    assignments: Result<&'e Assignments, &'e Unknown>,
}

/// The place of a variable, and the places of the frame from which it follows.
#[derive(Debug)]
pub struct Location {
    pub storage: Storage,
    pub used: UsedPlaces,
}

/// The places of a frame that a location uses.
#[derive(Debug, Default)]
pub struct UsedPlaces {
    /// The locals.
    locals: Vec<u32>,
    /// The operands.
    operands: Vec<u32>,
    /// Whether the location uses the frame base.
    uses_frame_base: bool,
    /// The locals of the frame base, if there is a doubt about it.
    doubtful_base: Vec<u32>,
    /// The beginning of the range of the location, if it has one.
    range_begin: Option<u64>,
    /// Whether the location is in a local, or relative to a frame base in a local.
    pub is_in_local: bool,
    /// The doubt about the value, if there is one.
    pub doubt: Option<Doubt>,
}

/// The reason why a location may not hold the variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The place may have been overwritten.
    Reused(FramePlace),
    /// The place does not hold the variable, or it is not known whether it was overwritten, for this reason.
    Unknown(Unknown),
}

impl UsedPlaces {
    /// Returns the start of the range and the local, if the location has a range and uses exactly one local.
    pub fn range_start_and_local(&self) -> Option<(u64, u32)> {
        match self.locals[..] {
            [local] => Some((self.range_begin?, local)),
            _ => None,
        }
    }

    /// Returns whether the location depends on the frame.
    pub fn depend_on_frame(&self) -> bool {
        self.uses_frame_base || !self.locals.is_empty() || !self.operands.is_empty()
    }

    /// Returns the locals and operands of the location, and of its frame base if there is a doubt about that.
    pub fn places(&self) -> impl Iterator<Item = FramePlace> {
        let locals = self.locals.iter().chain(&self.doubtful_base);
        let locals = locals.map(|local| FramePlace::Local(*local));
        locals.chain(self.operands.iter().map(|operand| FramePlace::Operand(*operand)))
    }
}

/// The function in which locations are evaluated.
#[derive(Clone, Copy)]
pub struct FunctionSite<'e> {
    /// The entry of the function.
    pub entry: UnitOffset<usize>,
    /// The DWARF address of the code position.
    pub address: u64,
    /// The instructions of the function that assign to locals, or the reason why they are not known.
    pub assignments: Result<&'e Assignments, &'e Unknown>,
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
            base_used: UsedPlaces::default(),
            assignments: function
                .map_or(Err(&Unknown::NoFrameBase), |function| function.assignments),
        };
        let base = match function {
            Some(function) => unit.entry(function.entry)?.attr_value(gimli::DW_AT_frame_base),
            None => None,
        };
        if let Some(base) = base {
            let Location { storage, used } = evaluator.locate(base)?;
            evaluator.base_used = used;
            evaluator.frame_base = match storage {
                // Without DW_OP_stack_value, the local that the expression names holds the frame base too.
                Storage::Memory(address) => Ok(Number::address(address, unit)),
                Storage::Number(number)
                    if number.class == Class::Integer
                        && (number.extends || number.bytes <= unit.encoding().address_size) =>
                {
                    Ok(number)
                }
                Storage::Number(number) => {
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
    pub fn locate(&self, location: Attribute<'b>) -> Result<Location, Stop> {
        let mut used = UsedPlaces::default();
        if let Some(expression) = location.exprloc_value() {
            let storage = self.evaluate(expression, None, &mut used)?;
            self.find_doubt(0..u64::MAX, &mut used);
            return Ok(Location { storage, used });
        }
        let unknown =
            |reason| Location { storage: Storage::Unknown(reason), used: UsedPlaces::default() };
        let Some(mut list) = self.unit.attr_locations(location)? else {
            return Ok(unknown(Unknown::Unsupported("kind of location".into())));
        };
        while let Some(entry) = list.next()? {
            if self.address.is_some_and(|at| (entry.range.begin..entry.range.end).contains(&at)) {
                let storage = self.evaluate(entry.data, None, &mut used)?;
                used.range_begin = Some(entry.range.begin);
                self.find_doubt(entry.range.begin..entry.range.end, &mut used);
                return Ok(Location { storage, used });
            }
        }
        Ok(unknown(Unknown::OptimizedOut))
    }

    /// Looks for a reason why the places of a location may not hold the variable.
    ///
    /// The instruction that gives a local the variable's value is before the range of the location. LLVM joins ranges with
    /// the same local, so an assignment within a range can be one of the program, such as `i++` in a loop; but LLVM also
    /// reuses locals of variables that are no longer needed, without ending their ranges. It also keeps a range open after
    /// the operand has been popped. A frame base has one value for the whole function, so its local is assigned once: at
    /// the beginning, before which the local is zero.
    fn find_doubt(&self, range: Range<u64>, used: &mut UsedPlaces) {
        let base = if used.uses_frame_base { &self.base_used.locals[..] } else { &[] };
        used.is_in_local = !used.locals.is_empty() || !base.is_empty();
        used.doubt = match self.assignments {
            Err(reason) if used.is_in_local => Some(Doubt::Unknown(reason.clone())),
            Err(_) => None,
            Ok(assignments) => {
                let overwritten =
                    used.locals.iter().find(|at| assignments.has(**at, range.clone()));
                let is_set = |at: u32| assignments.has(at, 0..self.address.unwrap_or(u64::MAX));
                let unset = base.iter().any(|at| !is_set(*at));
                let base = base.iter().find(|at| assignments.count(**at) > 1);
                let reused = |local: &u32| Doubt::Reused(FramePlace::Local(*local));
                match unset {
                    true => Some(Doubt::Unknown(Unknown::FrameBaseNotSet)),
                    false => overwritten.or(base).map(reused),
                }
            }
        };
        if used.doubt.is_some() {
            used.doubtful_base = base.to_vec();
        }
        if let Some(operand) = used.operands.first() {
            used.doubt.get_or_insert(Doubt::Reused(FramePlace::Operand(*operand)));
        }
    }

    /// Evaluates an expression, and adds the places that it uses to `used`. `object` is the address of the object of
    /// which the expression locates a member.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the debugging information is malformed.
    pub fn evaluate(
        &self,
        expression: Expression<BudgetReader<'b>>,
        object: Option<u64>,
        used: &mut UsedPlaces,
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
                        .or_else(|| stack.pop().map(|top| Storage::at(&top, address_size)));
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
                operation => match self.step(&mut stack, operation, used)? {
                    Ok(()) => {}
                    Err(reason) => done = Some(Storage::Unknown(reason)),
                },
            }
        }
        if !pieces.is_empty() {
            return Ok(Storage::Pieces(pieces));
        }
        let top = || stack.pop().map(|top| Storage::at(&top, address_size));
        Ok(done.or_else(top).unwrap_or(Storage::Unknown(Unknown::OptimizedOut)))
    }

    fn step(
        &self,
        stack: &mut Vec<Number>,
        operation: Operation<BudgetReader<'b>>,
        used: &mut UsedPlaces,
    ) -> Step<()> {
        let address_size = self.unit.encoding().address_size;
        let malformed = || Ok(Err(Unknown::Malformed("the location lacks an operand".into())));
        let number = match operation {
            Operation::Nop => return Ok(Ok(())),
            Operation::WasmLocal { index } => match self.state.local(index) {
                Ok(bits) => {
                    used.locals.push(index);
                    Number::from_bits(bits, "local")
                }
                Err(reason) => return Ok(Err(reason)),
            },
            Operation::WasmStack { index } => match self.state.operand(index) {
                Ok(bits) => {
                    used.operands.push(index);
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
                    used.uses_frame_base = true;
                    let offset = Number::constant(i128::from(offset).cast_unsigned(), true);
                    match base.add(&offset) {
                        Some(address) => address,
                        None => return Ok(Err(Unknown::NoFrameBase)),
                    }
                }
                Err(reason) => return Ok(Err(reason.clone())),
            },
            Operation::PlusConstant { value } => {
                let Some(top) = stack.pop() else { return malformed() };
                match top.add(&Number::constant(value.into(), false)) {
                    Some(sum) => sum,
                    None => {
                        return Ok(Err(Unknown::WrongType(top.describe_mismatch("an integer"))));
                    }
                }
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
            Operation::Deref { base_type, size, space: false } => {
                let Some(top) = stack.pop() else { return malformed() };
                let mut bytes = [0; 8];
                let size = usize::from(size).min(8);
                let Some(part) = bytes.get_mut(..size) else { return malformed() };
                let address = match top.to_address(address_size) {
                    Ok(address) => address,
                    Err(reason) => return Ok(Err(reason)),
                };
                match self.state.read(address, part)? {
                    Ok(()) => {}
                    Err(reason) => return Ok(Err(reason)),
                }
                let number = Number::address(u64::from_le_bytes(bytes), self.unit);
                let typed = match base_type.0 {
                    0 => Some(number),
                    _ => self.with_type(number, base_type, false)?,
                };
                match typed {
                    Some(number) => number,
                    None => return Ok(Err(unsupported(&operation))),
                }
            }
            Operation::TypedLiteral { base_type, ref value } => {
                let bytes = value.to_slice()?;
                let mut bits = [0; 16];
                let Some(part) = bits.get_mut(..bytes.len()) else { return malformed() };
                part.copy_from_slice(&bytes);
                let number = Number::constant(u128::from_le_bytes(bits), false);
                match self.with_type(number, base_type, false)? {
                    Some(number) => number,
                    None => return Ok(Err(unsupported(&operation))),
                }
            }
            Operation::Convert { base_type } | Operation::Reinterpret { base_type } => {
                let Some(top) = stack.pop() else { return malformed() };
                let convert = matches!(operation, Operation::Convert { .. });
                match self.with_type(top, base_type, convert)? {
                    Some(number) => number,
                    None => return Ok(Err(unsupported(&operation))),
                }
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

    /// Gives a number the type of a base type. `convert` keeps the value, otherwise the bits are kept. Returns `None` for
    /// a conversion from or to a float.
    fn with_type(
        &self,
        number: Number,
        base_type: UnitOffset<usize>,
        convert: bool,
    ) -> Result<Option<Number>, Stop> {
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
        let class = match encoding {
            Some(gimli::AttributeValue::Encoding(gimli::DW_ATE_float)) => Class::Float,
            _ => Class::Integer,
        };
        Ok(number.with_type(bytes, class, signed, convert))
    }
}

fn unsupported(operation: &Operation<BudgetReader<'_>>) -> Unknown {
    let name = format!("{operation:?}");
    // The fields of an operation do not matter.
    let end = name.find([' ', '{', '(']).unwrap_or(name.len());
    Unknown::Unsupported(format!("operation {} in a location", name.get(..end).unwrap_or_default()))
}

//! The values of variables, and their text form.

use std::fmt::{self, Display, Write};

use corestream::Visible;
use rustc_apfloat::Float;
use rustc_apfloat::ieee::{Half, Quad, X87DoubleExtended};

/// The value of a variable, as a tree.
///
/// The [`Display`] form is one line:
///
/// ```
/// use corestream_symbols::{Member, Text, Unknown, Value};
///
/// assert_eq!(Value::Signed(-1).to_string(), "-1");
/// assert_eq!(Value::F32(1.5_f32.to_bits()).to_string(), "1.5");
/// let bytes = b"hello\n".to_vec();
/// let text = Text { bytes, length: Some(6), unread: None, address: Some(0x1000) };
/// let text = Value::Text(text);
/// let pointer = Value::Pointer { address: 0x1000, target: Some(Box::new(text)) };
/// assert_eq!(pointer.to_string(), r#"0x1000 "hello\n""#);
/// let members = vec![
///     Member { name: Some("x".into()), value: Value::Unsigned(1) },
///     Member { name: Some("y".into()), value: Value::Unknown(Unknown::OptimizedOut) },
/// ];
/// let record = Value::Record { members, omitted: 0 };
/// assert_eq!(record.to_string(), "{x = 1, y = ? (optimized out)}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// The value is not known, for this reason.
    Unknown(Unknown),
    /// A signed integer of up to 128 bits.
    Signed(i128),
    /// An unsigned integer of up to 128 bits.
    Unsigned(u128),
    /// A boolean.
    Boolean(bool),
    /// A Unicode character.
    Character(char),
    /// A byte of type `char` in C or C++.
    Byte(u8),
    /// A 16-bit float, as bits.
    F16(u16),
    /// A 32-bit float, as bits.
    F32(u32),
    /// A 64-bit float, as bits.
    F64(u64),
    /// An 80-bit float of the x87, as bits.
    F80(u128),
    /// A 128-bit float (IEEE 754 binary128, the `long double` of WebAssembly), as bits.
    F128(u128),
    /// A complex number: the real and the imaginary part, which are floats or unknown.
    Complex(Box<[Value; 2]>),
    /// An enumeration's value that has a name.
    Enumerator {
        /// The name of the enumerator.
        name: String,
        /// Its number.
        number: i128,
    },
    /// A pointer or a reference.
    Pointer {
        /// The address it holds. For a pointer to a function, this is an index into the table of functions.
        address: u64,
        /// The value at the address. `None` for null, for pointers without a type, and beyond the first pointer.
        target: Option<Box<Value>>,
    },
    /// Text: an array of C characters, or a string type of the language.
    Text(Text),
    /// An array, a vector or a slice.
    Sequence {
        /// The first elements.
        elements: Vec<Value>,
        /// The number of all elements.
        length: u64,
    },
    /// A structure, class or union.
    Record {
        /// The base classes and members in declaration order.
        members: Vec<Member>,
        /// The number of members that are not shown.
        omitted: usize,
    },
    /// A tuple, or a structure with unnamed members.
    Tuple {
        /// The members.
        members: Vec<Value>,
        /// The number of members that are not shown.
        omitted: usize,
    },
    /// A variant of an enumeration with data, or of a tagged union.
    Variant {
        /// The name of the variant.
        name: String,
        /// The data: a [`Record`](Self::Record) or a [`Tuple`](Self::Tuple); `None` if the variant has none.
        data: Option<Box<Value>>,
    },
    /// The absence of an optional value, in languages that have a word for it.
    Null,
    /// The value is nested more deeply than [`ValueLimits::depth`](crate::ValueLimits::depth), or is one of more than
    /// [`ValueLimits::values`](crate::ValueLimits::values).
    Omitted,
}

/// A member of a [`Value::Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name. For a base class, the name of the class. `None` for an anonymous structure or union.
    pub name: Option<String>,
    /// The value.
    pub value: Value,
}

/// Text in a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The first bytes, without a terminating NUL. Usually UTF-8.
    pub bytes: Vec<u8>,
    /// The length in bytes of all the text, or `None` if it is not known because the end was not read.
    pub length: Option<u64>,
    /// The reason why the end was not read, if it is not that the text is longer than
    /// [`ValueLimits::text`](crate::ValueLimits::text).
    pub unread: Option<Box<Unknown>>,
    /// The address of the text, if it is not part of a larger value.
    pub address: Option<u64>,
}

impl Text {
    /// Returns whether `bytes` is all of the text.
    pub fn is_complete(&self) -> bool {
        self.length == Some(self.bytes.len() as u64)
    }
}

/// A place of a frame that can hold a value.
///
/// ```
/// use corestream_symbols::FramePlace;
///
/// assert_eq!(FramePlace::Local(3).to_string(), "local 3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FramePlace {
    /// The local with this index. Parameters come first.
    Local(u32),
    /// The value of the operand stack with this index, counted from the bottom.
    Operand(u32),
}

impl Display for FramePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(index) => write!(f, "local {index}"),
            Self::Operand(index) => write!(f, "operand {index}"),
        }
    }
}

/// The reason why a value is not known.
///
/// ```
/// use corestream_symbols::Unknown;
///
/// assert_eq!(Unknown::Local(3).to_string(), "local 3 was not recorded");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// The compiler kept no value of the variable at this position.
    OptimizedOut,
    /// The linker removed the variable.
    Removed,
    /// The local with this index is not in the dump.
    Local(u32),
    /// The value of the operand stack with this index, counted from the bottom, is not in the dump.
    Operand(u32),
    /// The global with this index is not in the dump.
    Global(u32),
    /// The global with this index may have changed since the frame called a younger one.
    ChangedGlobal(u32),
    /// The place that the debugging information names may hold another value by now. Optimizing compilers reuse locals
    /// and operands without saying so.
    Reused {
        /// The place: a local that the function assigns to within the range for which the debugging information places
        /// the variable in it, or a value of the operand stack.
        place: FramePlace,
        /// The value that the variable has if the place was not reused.
        value: Box<Value>,
    },
    /// The debugging information places a variable of the module in a local that cannot hold it, so no local of the module
    /// can be trusted. Tools such as `wasm-opt` renumber locals without adjusting the debugging information.
    Renumbered,
    /// The local, operand or global has a type that does not fit the variable.
    WrongType(String),
    /// The memory at this address was excluded from the dump.
    Excluded(u64),
    /// The memory at this address is lost, because the dump is damaged or truncated.
    Lost(u64),
    /// The address is outside the memory.
    OutOfBounds(u64),
    /// The memory of the frame's instance is not known.
    NoMemory,
    /// The frame has no frame base.
    NoFrameBase,
    /// The function was stopped before it set its frame base, such as when it was entered.
    FrameBaseNotSet,
    /// The pointer refers to a value that has no address.
    NoAddress,
    /// The debugging information uses something that this crate does not support.
    Unsupported(String),
    /// Reading the value exceeds the limit of work ([`limits`](crate::limits)).
    TooMuchWork,
    /// The debugging information is malformed.
    Malformed(String),
}

impl Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OptimizedOut => f.write_str("optimized out"),
            Self::Removed => f.write_str("removed by the linker"),
            Self::Local(index) => write!(f, "local {index} was not recorded"),
            Self::Operand(index) => write!(f, "operand {index} was not recorded"),
            Self::Global(index) => write!(f, "global {index} was not recorded"),
            Self::ChangedGlobal(index) => {
                write!(f, "global {index} may have changed since the call")
            }
            Self::Reused { place, value } => {
                write!(f, "{place} may have been reused, it holds {value}")
            }
            Self::Renumbered => f.write_str("the locals of the module were renumbered"),
            Self::WrongType(message) => f.write_str(message),
            Self::Excluded(address) => write!(f, "memory at {address:#x} was excluded"),
            Self::Lost(address) => write!(f, "memory at {address:#x} is lost"),
            Self::OutOfBounds(address) => write!(f, "address {address:#x} is outside the memory"),
            Self::NoMemory => f.write_str("the memory of the instance is not known"),
            Self::NoFrameBase => f.write_str("the function has no frame base"),
            Self::FrameBaseNotSet => f.write_str("the function has not set its frame base yet"),
            Self::NoAddress => f.write_str("points to a value without an address"),
            Self::Unsupported(what) => write!(f, "unsupported: {what}"),
            Self::TooMuchWork => f.write_str("exceeds the limit of work"),
            Self::Malformed(what) => write!(f, "malformed debugging information: {what}"),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(reason) => write!(f, "? ({})", Visible(reason)),
            Self::Signed(x) => write!(f, "{x}"),
            Self::Unsigned(x) => write!(f, "{x}"),
            Self::Boolean(x) => write!(f, "{x}"),
            Self::Character(c) => {
                f.write_char('\'')?;
                write_char(f, *c, '\'')?;
                f.write_char('\'')
            }
            Self::Byte(byte) => {
                f.write_char('\'')?;
                write_bytes(f, &[*byte], '\'')?;
                f.write_char('\'')
            }
            Self::F16(bits) => write_decimal(f, &half(*bits).to_string()),
            Self::F32(bits) => write!(f, "{:?}", f32::from_bits(*bits)),
            Self::F64(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Self::F80(bits) => write_decimal(f, &extended(*bits).to_string()),
            Self::F128(bits) => write_decimal(f, &quad(*bits).to_string()),
            Self::Complex(parts) => write_complex(f, parts),
            Self::Enumerator { name, .. } => write!(f, "{}", Visible(name)),
            Self::Pointer { address, target } => {
                write!(f, "{address:#x}")?;
                match target.as_deref() {
                    None => Ok(()),
                    Some(Self::Text(text)) if text.address == Some(*address) => {
                        write!(f, " {}", Self::Text(text.clone()))
                    }
                    Some(value) => write!(f, " -> {value}"),
                }
            }
            Self::Text(text) => {
                f.write_char('"')?;
                write_bytes(f, &text.bytes, '"')?;
                f.write_char('"')?;
                match text.length {
                    _ if text.is_complete() => Ok(()),
                    Some(length) => {
                        let more = length.saturating_sub(text.bytes.len() as u64);
                        write!(f, "... {more} more bytes")
                    }
                    None => match &text.unread {
                        Some(reason) => write!(f, "... ({})", Visible(reason)),
                        None => f.write_str("..."),
                    },
                }
            }
            Self::Sequence { elements, length } => {
                let more = length.saturating_sub(elements.len() as u64);
                write_list(f, ['[', ']'], elements.iter(), more)
            }
            Self::Record { members, omitted } => {
                write_list(f, ['{', '}'], members.iter(), *omitted as u64)
            }
            Self::Tuple { members, omitted } => {
                write_list(f, ['(', ')'], members.iter(), *omitted as u64)
            }
            Self::Variant { name, data: None } => write!(f, "{}", Visible(name)),
            Self::Variant { name, data: Some(data) } => {
                let space = if matches!(**data, Self::Tuple { .. }) { "" } else { " " };
                write!(f, "{}{space}{data}", Visible(name))
            }
            Self::Null => f.write_str("null"),
            Self::Omitted => f.write_str("..."),
        }
    }
}

impl Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} = {}", Visible(name), self.value),
            None => write!(f, "{}", self.value),
        }
    }
}

fn write_list<T: Display>(
    f: &mut fmt::Formatter<'_>,
    [open, close]: [char; 2],
    items: impl Iterator<Item = T>,
    more: u64,
) -> fmt::Result {
    f.write_char(open)?;
    let mut separator = "";
    for item in items {
        write!(f, "{separator}{item}")?;
        separator = ", ";
    }
    if more > 0 {
        write!(f, "{separator}... {more} more")?;
    }
    f.write_char(close)
}

fn write_complex(f: &mut fmt::Formatter<'_>, [real, imaginary]: &[Value; 2]) -> fmt::Result {
    let imaginary = imaginary.to_string();
    match imaginary.strip_prefix('-') {
        Some(absolute) => write!(f, "{real} - {absolute}i"),
        None => write!(f, "{real} + {imaginary}i"),
    }
}

/// Writes bytes as the content of a literal: UTF-8 as it is, and other bytes as `\xNN`.
fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8], quote: char) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            write_char(f, c, quote)?;
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

fn write_char(f: &mut fmt::Formatter<'_>, c: char, quote: char) -> fmt::Result {
    match c {
        '\n' => f.write_str("\\n"),
        '\t' => f.write_str("\\t"),
        '\r' => f.write_str("\\r"),
        '\0' => f.write_str("\\0"),
        '\\' => f.write_str("\\\\"),
        _ if c == quote => write!(f, "\\{c}"),
        _ if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c)),
        // Escapes characters that can mislead a terminal.
        _ => write!(f, "{}", Visible(c)),
    }
}

/// Writes a decimal number the way that Rust's `Debug` writes floats: with a fraction, and a lower-case exponent.
fn write_decimal(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    match text {
        "Infinity" | "+Inf" | "Inf" => return f.write_str("inf"),
        "-Infinity" | "-Inf" => return f.write_str("-inf"),
        _ => {}
    }
    let text = text.replace("E+", "e").replace('E', "e");
    let needs_fraction = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    write!(f, "{text}{}", if needs_fraction { ".0" } else { "" })
}

fn half(bits: u16) -> Half {
    Half::from_bits(bits.into())
}

fn extended(bits: u128) -> X87DoubleExtended {
    X87DoubleExtended::from_bits(bits)
}

fn quad(bits: u128) -> Quad {
    Quad::from_bits(bits)
}

//! Numbers on the stack of a location's expression, and the arithmetic of its operations.
//!
//! DWARF 5 gives numbers types. Without a type, a number has the size of an address by the standard, but LLVM relies on 64
//! bits in DWARF 4. Where it is not known which of the two a producer means, and the result would differ, an operation has
//! no result.

use gimli::{Operation, UnitRef};

use crate::budget::BudgetReader;
use crate::frame_state::{Bits, Class};
use crate::value::Unknown;

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

/// Returns a mask for a number of bytes, at most 16.
pub fn mask(bytes: u8) -> u128 {
    match bytes {
        16.. => u128::MAX,
        _ => (1 << (u32::from(bytes) * 8)) - 1,
    }
}

impl Number {
    pub fn from_bits(Bits { bits, bytes, class }: Bits, origin: &'static str) -> Self {
        let narrow = bytes == 4;
        let origin = Some(origin);
        Self { bits, bytes, class, signed: false, typed: false, narrow, extends: false, origin }
    }

    pub fn address<'b>(address: u64, unit: UnitRef<'_, BudgetReader<'b>>) -> Self {
        let bytes = unit.encoding().address_size;
        Self { bits: address.into(), bytes, ..Self::constant(0, false) }
    }

    pub fn constant(bits: u128, signed: bool) -> Self {
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

    /// Returns the number as an address, which wraps around at the end of the address space as in the guest.
    ///
    /// # Errors
    /// Returns the reason why the number is not an address. The linker gives the last address to variables that it has
    /// removed.
    pub fn to_address(&self, address_size: u8) -> Result<u64, Unknown> {
        let address = self.low_bits(address_size);
        match self.class {
            Class::Integer if u128::from(address) == mask(address_size) => Err(Unknown::Removed),
            Class::Integer => Ok(address),
            _ => Err(Unknown::WrongType(self.describe_mismatch("an address"))),
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
    fn low_bits(&self, address_size: u8) -> u64 {
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

    /// Returns the sum of two integers, or `None` if one of the numbers is not an integer.
    pub fn add(&self, other: &Self) -> Option<Self> {
        self.binary(&Operation::Plus, other)
    }

    /// Gives a number a type: `bytes` is the size in bytes. `convert` keeps the value, otherwise the bits are kept. Returns
    /// `None` for a conversion from or to a float.
    pub fn with_type(self, bytes: u8, class: Class, signed: bool, convert: bool) -> Option<Self> {
        if convert && (self.class != Class::Integer || class != Class::Integer) {
            return None;
        }
        let bits = if convert { self.extended() } else { self.bits } & mask(bytes);
        let origin = self.origin;
        Some(Self { bits, bytes, class, signed, typed: true, narrow: false, extends: true, origin })
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

    pub fn unary(&self, operation: &Operation<BudgetReader<'_>>) -> Option<Self> {
        if self.class != Class::Integer {
            return None;
        }
        let zero = Self::constant(0, self.signed);
        Some(match operation {
            Operation::Neg => zero.combine(self, |_, x| x.wrapping_neg()),
            Operation::Not => zero.combine(self, |_, x| !x),
            Operation::Abs => {
                let absolute = self.to_signed()?.unsigned_abs();
                zero.combine(self, |_, _| absolute)
            }
            _ => return None,
        })
    }

    pub fn binary(&self, operation: &Operation<BudgetReader<'_>>, right: &Self) -> Option<Self> {
        if self.class != Class::Integer || right.class != Class::Integer {
            return None;
        }
        let shift = u32::try_from(right.bits).ok();
        let truth = |truth: bool| Some(Self::constant(truth.into(), false));
        let signed = || Some((self.to_signed()?, right.to_signed()?));
        Some(match operation {
            Operation::Plus => self.combine(right, u128::wrapping_add),
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
                // A logical shift does not extend the sign.
                let size = if self.typed { self.bytes } else { 8 };
                self.combine(right, |x, _| (x & mask(size)).checked_shr(shift).unwrap_or(0))
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
        let sum = local(0xffff_fffe).add(&constant(0x1002)).unwrap();
        assert_eq!(sum.to_address(4), Ok(0x1000));
        assert_eq!(sum.to_address(8), Ok(0x1_0000_1000));
        let below = local(0x10).add(&Number::constant((-0x20_i128).cast_unsigned(), true)).unwrap();
        assert_eq!(below.to_address(4), Ok(0xffff_fff0));
        assert_eq!(local(u32::MAX).to_address(4), Err(Unknown::Removed));
        let float = Number { class: Class::Float, ..local(0) };
        assert!(matches!(float.to_address(4), Err(Unknown::WrongType(_))));
        assert_eq!(float.add(&constant(8)), None);
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
        assert_eq!(doubtful.unary(&Operation::Abs), None);
        assert_eq!(constant((-3_i64).cast_unsigned()).unary(&Operation::Abs).unwrap().bits, 3);
    }

    #[test]
    fn a_typed_number_keeps_its_size() {
        let minus_four =
            |signed| local(0xffff_fffc).with_type(4, Class::Integer, signed, false).unwrap();
        for signed in [false, true] {
            let shifted = minus_four(signed).binary(&Operation::Shr, &constant(1)).unwrap();
            assert_eq!(shifted.bits, 0x7fff_fffe);
            let absolute = minus_four(signed).unary(&Operation::Abs).unwrap();
            assert_eq!(absolute.bits, 4);
        }
        let widened = minus_four(true).with_type(8, Class::Integer, true, true).unwrap();
        assert_eq!(widened.bits, u128::from((-4_i64).cast_unsigned()));
        let float = minus_four(true).with_type(4, Class::Float, true, false).unwrap();
        assert_eq!(float.clone().with_type(4, Class::Integer, true, true), None);
        assert_eq!(local(1).with_type(4, Class::Float, true, true), None);
        assert_eq!(float.binary(&Operation::Plus, &constant(1)), None);
    }
}

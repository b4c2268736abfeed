//! Checked arithmetic on the crate's own numbers: lengths, positions and counts.
//!
//! Saturating arithmetic would invent a number, which becomes a wrong offset in a dump that looks intact. These
//! operations are exact or return an error of [`ErrorKind::Internal`] that names the place in the source code. The
//! reader does not use them for numbers from its input: it checks those where it knows their offset in the dump.

use std::fmt;
use std::panic::Location;

use crate::error::{Error, ErrorKind, Result};

/// Addition, subtraction and multiplication that return an error on overflow.
pub(crate) trait Checked: Copy {
    /// Returns `self + other`.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Internal`] if the sum overflows.
    fn plus(self, other: Self) -> Result<Self>;

    /// Returns `self - other`.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Internal`] if `other` is larger than `self`.
    fn minus(self, other: Self) -> Result<Self>;

    /// Returns `self * other`.
    ///
    /// # Errors
    /// Returns an error of [`ErrorKind::Internal`] if the product overflows.
    fn times(self, other: Self) -> Result<Self>;
}

macro_rules! checked {
    ($($number:ty),*) => {$(
        impl Checked for $number {
            #[track_caller]
            #[inline]
            fn plus(self, other: Self) -> Result<Self> {
                let place = Location::caller();
                self.checked_add(other).ok_or_else(|| failed(self as u128, '+', other as u128, place))
            }

            #[track_caller]
            #[inline]
            fn minus(self, other: Self) -> Result<Self> {
                let place = Location::caller();
                self.checked_sub(other).ok_or_else(|| failed(self as u128, '-', other as u128, place))
            }

            #[track_caller]
            #[inline]
            fn times(self, other: Self) -> Result<Self> {
                let place = Location::caller();
                self.checked_mul(other).ok_or_else(|| failed(self as u128, '*', other as u128, place))
            }
        }
    )*};
}

checked!(u32, u64, u128, usize);

/// Returns the sum of `numbers`.
///
/// # Errors
/// Returns an error of [`ErrorKind::Internal`] if the sum overflows.
#[track_caller]
pub(crate) fn sum<T: Checked + Default>(numbers: impl IntoIterator<Item = T>) -> Result<T> {
    let mut sum = T::default();
    for number in numbers {
        sum = sum.plus(number)?;
    }
    Ok(sum)
}

/// Converts `number` to another type.
///
/// # Errors
/// Returns an error of [`ErrorKind::Internal`] if the number does not fit the type.
#[track_caller]
#[inline]
pub(crate) fn exact<T: TryFrom<N>, N: Copy + fmt::Display>(number: N) -> Result<T> {
    let place = Location::caller();
    T::try_from(number)
        .map_err(|_| overflow(place, format_args!("{number} as {}", std::any::type_name::<T>())))
}

/// Returns the minimum of `len` and `most`, which always fits a `usize`.
#[inline]
pub(crate) fn at_most<N>(len: N, most: usize) -> usize
where
    usize: TryFrom<N>,
{
    usize::try_from(len).map_or(most, |len| len.min(most))
}

/// Returns the error of a failed operation.
///
/// The operands are passed by value. Passing references would force the callers' hot path to keep them in memory, which
/// costs a few instructions.
#[cold]
#[inline(never)]
fn failed(left: u128, operator: char, right: u128, place: &Location<'_>) -> Error {
    overflow(place, format_args!("{left} {operator} {right}"))
}

#[cold]
fn overflow(place: &Location<'_>, what: fmt::Arguments<'_>) -> Error {
    Error::new(ErrorKind::Internal, format!("{what} overflows ({place}), please report this"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_exact_results() {
        assert_eq!(1_u64.plus(2).unwrap(), 3);
        assert_eq!(3_usize.minus(3).unwrap(), 0);
        assert_eq!(0x1_0000_u32.times(0xffff).unwrap(), 0xffff_0000);
        assert_eq!(sum([1_u64, 2, 3]).unwrap(), 6);
        assert_eq!(exact::<u32, _>(u64::from(u32::MAX)).unwrap(), u32::MAX);
        assert_eq!([at_most(u64::MAX, 7), at_most(3_u64, 7), at_most(1_u128 << 64, 7)], [7, 3, 7]);
    }

    #[test]
    fn names_the_operands_and_the_place_of_an_overflow() {
        let line = line!() + 1;
        let error = u64::MAX.plus(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        let place = format!("18446744073709551615 + 1 overflows (src/arithmetic.rs:{line}:");
        assert!(error.to_string().starts_with(&place), "{error}");
        assert!(1_u32.minus(2).unwrap_err().to_string().starts_with("1 - 2 overflows"));
        assert!(u64::MAX.times(2).unwrap_err().to_string().contains("* 2 overflows"));
        assert!(sum([usize::MAX, 1]).is_err());
        let error = exact::<u32, _>(1_u64 << 32).unwrap_err();
        assert!(error.to_string().starts_with("4294967296 as u32 overflows"), "{error}");
    }
}

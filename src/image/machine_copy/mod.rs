//! Copies memory that others may write meanwhile, by machine instructions that the compiler knows nothing of.
//!
//! # The problem
//! Rust calls a read that races with a write undefined, unless both are atomic and of one width. A volatile read is no way
//! out: it races like any other. But those who write to a shared memory of WebAssembly keep to no width. Compiled guests
//! store 1 to 16 bytes at any address, host functions use each type of [`std::sync::atomic`], and engines copy blocks
//! for their guests.
//!
//! # The idea
//! The machine knows no races. To read a byte that somebody else writes gives a value that the byte has at some time, which
//! is all that a dump wants, and all that a thread of the guest gets. So the bytes are copied as such a thread copies them:
//! by instructions within `asm!`. To the compiler these are a call of foreign code. It assumes nothing of the values that
//! come out, reads nothing a second time, and has no access of its own that could race.
//!
//! # The proof
//! Foreign code has to behave as some Rust code would ([rules for inline
//! assembly](https://doc.rust-lang.org/reference/inline-assembly.html#rules-for-inline-assembly)). This is the Rust code:
//! a relaxed atomic load of each byte, of whichever width the write has that races with it. Atomic writes of Rust of any
//! width are thereby allowed, and nothing else of Rust may write ([`SharedBytes`](crate::SharedBytes) demands it). Writes
//! from outside of Rust are no writes to the compiler, and race with nothing. Of an engine that writes in the place of its
//! guest, `SharedBytes` demands that it allows atomic loads meanwhile, and this is one.
//!
//! # The cost
//! One `rep movsb` copies 13 to 21 GB/s on the machine of docs/performance.md, where a loop of relaxed loads of 8 bytes
//! copies 11 to 15. It takes 10 to 20 ns for less than 100 bytes, and that loop 4 to 6.
//!
//! A processor without a file here is read by relaxed loads of single bytes, and atomic writes have to be of single bytes
//! there.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as architecture;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use other as architecture;
#[cfg(target_arch = "x86_64")]
use x86_64 as architecture;

pub(super) use architecture::copy;

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;

    use super::*;

    #[test]
    fn copies_every_alignment_and_length() {
        let cells: Vec<_> = (0..120).map(UnsafeCell::new).collect();
        for start in 0..20 {
            for len in 0..80 {
                let mut buffer = vec![0xff; len + 2];
                copy(&cells[start..start + len], &mut buffer[1..=len]);
                assert!((start..start + len).eq(buffer[1..=len].iter().map(|b| usize::from(*b))));
                assert_eq!((buffer[0], buffer[len + 1]), (0xff, 0xff), "nothing beside it");
            }
        }
    }

    #[test]
    fn copies_as_much_as_both_have() {
        let cells: Vec<_> = (1..=50).map(UnsafeCell::new).collect();
        let mut buffer = [0; 40];
        copy(&cells, &mut buffer);
        assert!((1..=40).eq(buffer));
        copy(&cells[..20], &mut buffer[20..]);
        assert!((1..=20).chain(1..=20).eq(buffer));
    }
}

//! Copies memory that others may write at the same time, with machine instructions that the compiler cannot see into.
//!
//! # The problem
//! In Rust, a read that races with a write is undefined behavior, unless both are atomic and of the same width. A
//! volatile read does not help, because it races like any other. But the writers of a shared memory of WebAssembly do
//! not agree on a width. Compiled guests store 1 to 16 bytes at any address, host functions use all types of
//! [`std::sync::atomic`], and engines copy blocks for their guests.
//!
//! # The idea
//! On the machine, there is no undefined behavior. Reading a byte that another thread writes returns a value that the
//! byte has at some time. That is all that a dump needs, and all that a thread of the guest gets. So the bytes are
//! copied as such a thread copies them: by instructions within `asm!`. To the compiler these are a call of foreign
//! code. It assumes nothing about the values that come out, it reads nothing a second time, and it makes no access of
//! its own that could race.
//!
//! # The proof
//! Foreign code must behave as some Rust code would ([rules for inline
//! assembly](https://doc.rust-lang.org/reference/inline-assembly.html#rules-for-inline-assembly)). The corresponding
//! Rust code is a relaxed atomic load of each byte, with the width of the write that races with it. This permits
//! atomic writes in Rust of any width. Other writes in Rust are not permitted, which
//! [`SharedBytes`](crate::SharedBytes) requires of its implementations. To the compiler, writes from outside of Rust
//! are not writes, and race with nothing. `SharedBytes` requires an engine that writes on behalf of its guest to
//! permit concurrent atomic loads, and this is one.
//!
//! # The cost
//! `rep movsb` copies 13 to 21 GB/s on the machine of docs/performance.md. A loop of relaxed loads of 8 bytes copies
//! 11 to 15 GB/s. For less than 100 bytes, `rep movsb` takes 10 to 20 ns, and the loop 4 to 6 ns.
//!
//! On a processor without a file here, the copy uses relaxed loads of single bytes. There, atomic writes must also be
//! of single bytes.

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

pub(crate) use architecture::copy;

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
                assert_eq!((buffer[0], buffer[len + 1]), (0xff, 0xff), "bytes next to it");
            }
        }
    }

    #[test]
    fn copies_the_shorter_length() {
        let cells: Vec<_> = (1..=50).map(UnsafeCell::new).collect();
        let mut buffer = [0; 40];
        copy(&cells, &mut buffer);
        assert!((1..=40).eq(buffer));
        copy(&cells[..20], &mut buffer[20..]);
        assert!((1..=20).chain(1..=20).eq(buffer));
    }
}

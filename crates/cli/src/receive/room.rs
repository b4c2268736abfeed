//! Room on disk for a dump that says how long it is: looked for at once, reserved as its bytes come.

use std::fs::File;

use corestream::{FileSink, Sink};

/// Bytes that are reserved for a dump of which hardly anything has come.
const FIRST: u64 = 64 << 20;

/// The room of one dump.
///
/// What a sender says of a length costs it nothing, so that is not reserved: only as much again as it has
/// sent, in steps that double.
pub struct Room {
    length: u64,
    reserved: u64,
}

impl Room {
    /// Sees whether there is room in the file system of `file` for a dump of `length` bytes, of which it
    /// has `received`.
    ///
    /// # Errors
    /// There is not, in words.
    pub fn look_for(file: &File, length: u64, received: u64) -> Result<Self, String> {
        // A file system that does not say may have room.
        if let Ok(free) = rustix::fs::fstatvfs(file)
            && let free = u128::from(free.f_bavail) * u128::from(free.f_frsize)
            && u128::from(length) > u128::from(received) + free
        {
            return Err(format!("has {length} bytes, and there is room for {free}"));
        }
        Ok(Self { length, reserved: received })
    }

    /// Reserves more if the next `coming` bytes need it; `received` are there, and `file` is behind them.
    ///
    /// # Errors
    /// The disk is full, in words.
    pub fn reserve(&mut self, file: &File, received: u64, coming: u64) -> Result<(), String> {
        let wanted = received.checked_add(coming);
        let wanted = wanted.ok_or("has more bytes than can be counted")?;
        if wanted <= self.reserved {
            return Ok(());
        }
        let length = self.length;
        // On overflow, the length of the dump is the bound.
        let end = wanted.checked_mul(2).map_or(length, |twice| twice.max(FIRST).min(length));
        // Nothing can't be reserved.
        if let Some(more) = end.checked_sub(received).filter(|more| *more > 0) {
            let reserved = FileSink::new(file).begin(more, true);
            reserved.map_err(|error| {
                format!(
                    "has {length} bytes, and after {received} there is no room for more: {error}"
                )
            })?;
        }
        self.reserved = end.max(wanted);
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn as_much_again_is_reserved_as_has_come() {
        const MIB: u64 = 1 << 20;
        let mut file = tempfile::tempfile().unwrap();
        let room = |file: &File| file.metadata().unwrap().blocks() * 512;
        let length = 400 * MIB;
        let mut of = Room::look_for(&file, length, 0).unwrap();
        assert_eq!(room(&file), 0);
        let mut received = 0;
        while received < length {
            of.reserve(&file, received, MIB).unwrap();
            received += MIB;
            file.seek(SeekFrom::Start(received)).unwrap();
            let most = (2 * received).max(FIRST).min(length);
            // A file system may keep a little for itself.
            assert!((received..=most + MIB).contains(&room(&file)), "{received}: {}", room(&file));
        }
        // What is more than was said is not reserved, and no error.
        of.reserve(&file, received, MIB).unwrap();
        assert!(room(&file) <= length + MIB);
    }
}

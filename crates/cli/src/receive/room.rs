//! Disk space for a dump of stated length: checked at once, and reserved as its bytes arrive.

use std::fs::File;

use corestream::{FileSink, Sink};

/// The number of bytes to reserve at the start of a dump.
const FIRST: u64 = 64 << 20;

/// The disk space of one dump.
///
/// Announcing a length costs a sender nothing, so the receiver does not reserve all of it. It reserves as much again as
/// the sender has sent, in doubling steps.
pub struct Room {
    length: u64,
    reserved: u64,
}

impl Room {
    /// Checks that the file system of `file` has space for a dump of `length` bytes, of which `received` are in the
    /// file.
    ///
    /// # Errors
    /// Returns a message if there is not enough space.
    pub fn look_for(file: &File, length: u64, received: u64) -> Result<Self, String> {
        // Assumes that there is space if the file system does not report it.
        if let Ok(free) = rustix::fs::fstatvfs(file)
            && let free = u128::from(free.f_bavail) * u128::from(free.f_frsize)
            && u128::from(length) > u128::from(received) + free
        {
            return Err(format!("has {length} bytes, and there is room for {free}"));
        }
        Ok(Self { length, reserved: received })
    }

    /// Reserves more space if the next `coming` bytes need it. `received` bytes are in the file, and its cursor is
    /// after them.
    ///
    /// # Errors
    /// Returns a message if the disk is full.
    pub fn reserve(&mut self, file: &File, received: u64, coming: u64) -> Result<(), String> {
        let wanted = received.checked_add(coming);
        let wanted = wanted.ok_or("its length overflows")?;
        if wanted <= self.reserved {
            return Ok(());
        }
        let length = self.length;
        // If doubling overflows, the length of the dump is the bound.
        let end = wanted.checked_mul(2).map_or(length, |twice| twice.max(FIRST).min(length));
        // Reserving zero bytes is an error of `fallocate`.
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
            // A file system may keep some space for itself.
            assert!((received..=most + MIB).contains(&room(&file)), "{received}: {}", room(&file));
        }
        // Bytes beyond the stated length are not reserved, and are not an error here.
        of.reserve(&file, received, MIB).unwrap();
        assert!(room(&file) <= length + MIB);
    }
}

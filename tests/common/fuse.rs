//! A FUSE file system in memory, whose operations fail as a test chooses.
//!
//! It implements the protocol of the kernel ([fuse(4)](https://man7.org/linux/man-pages/man4/fuse.4.html),
//! `linux/fuse.h`, version 7.31): a few dozen structures of little-endian integers. A library would add a tree of
//! dependencies to every test build, and none supports `O_TMPFILE`.
//!
//! A thread of the test serves it, and owns the only descriptor of the connection. If the thread ends, even by a panic, the
//! kernel answers every request with an error, so that nothing waits for ever.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

/// The maximum size of a write request.
const MAX_WRITE: u32 = 128 << 10;

const ROOT: u64 = 1;
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// The operations that fail. By default none does: the file system has hard links, modes and renames with flags, but no
/// `O_TMPFILE`.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// `close` of a file that was open for writing fails, and the file is empty from then on.
    pub flush: Option<Errno>,
    /// `fsync` of a file fails.
    pub fsync: Option<Errno>,
    /// `fsync` of a directory fails.
    pub fsync_directory: Option<Errno>,
    /// `fchmod` and `chmod` fail.
    pub chmod: Option<Errno>,
    /// All files have this mode, whatever mode is requested.
    pub mode: Option<u32>,
    /// New hard links fail.
    pub link: Option<Errno>,
    /// Every `rename` fails.
    pub rename: Option<Errno>,
    /// `rename` fails if it has flags (`RENAME_NOREPLACE`, `RENAME_EXCHANGE`).
    pub rename_flags: Option<Errno>,
    /// `rename` fails while the file is open.
    pub rename_open: Option<Errno>,
    /// `rename` fails if something has the new name.
    pub rename_over: Option<Errno>,
    /// `rename` is carried out but reports an error, as if its reply were lost.
    pub rename_lost: Option<Errno>,
    /// The seconds for which the kernel remembers names without asking again.
    pub remembered: u64,
    /// Whether unnamed files (`O_TMPFILE`) are supported.
    pub tmpfile: bool,
    /// A read that touches one of these ranges of any file fails with `EIO`. The kernel reads whole pages.
    pub read: Vec<Range<u64>>,
    /// A write that ends past this offset of a file fails with this error.
    pub write: Option<(u64, Errno)>,
    /// The maximum size of all files together. A write beyond it fails with `ENOSPC`.
    pub capacity: Option<u64>,
    /// Whether `SEEK_DATA` claims that each file is one hole.
    pub all_hole: bool,
}

/// A mounted file system. Dropping this unmounts it.
#[derive(Debug)]
pub struct Fuse {
    store: Arc<Mutex<Store>>,
    /// Holds the mount point.
    directory: tempfile::TempDir,
}

impl Fuse {
    /// Mounts an empty file system.
    ///
    /// # Errors
    /// Returns the reason if no FUSE file system can be mounted here.
    pub fn new(faults: Faults) -> Result<Self, String> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|error| format!("/dev/fuse: {error}"))?;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mount_point = directory.path().join("fuse");
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        // The options name standard input as the descriptor.
        let stdin = device.try_clone().map_err(|error| error.to_string())?;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let options = format!(
            "fd=0,rootmode=40755,user_id={uid},group_id={gid},allow_other,default_permissions"
        );
        let mut command = Command::new("mount");
        command.args(["-i", "-t", "fuse", "-o", &options, "corestream-test"]).arg(&mount_point);
        let output = command.stdin(stdin).stderr(Stdio::piped()).output();
        // The command holds a copy of the descriptor.
        drop(command);
        let output = output.map_err(|error| format!("mount: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
        }
        let store = Arc::new(Mutex::new(Store::new(faults, uid, gid)));
        let served = Arc::clone(&store);
        thread::spawn(move || serve(&device, &served));
        Ok(Self { store, directory })
    }

    /// Returns the directory on which the file system is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("fuse")
    }

    /// Sets the operations that fail from now on.
    pub fn set(&self, faults: Faults) {
        lock(&self.store).faults = faults;
    }

    /// Returns the bytes of the file at `path`, which is relative to the root. Asks the store, and not the kernel.
    ///
    /// # Panics
    /// Panics if the file does not exist.
    pub fn contents(&self, path: &str) -> Vec<u8> {
        let mut store = lock(&self.store);
        let mut number = 1;
        for name in path.split('/') {
            let node = store.node(number).unwrap();
            number = *node
                .entries
                .get(OsStr::new(name))
                .unwrap_or_else(|| panic!("no {name} in {path}"));
        }
        store.node(number).unwrap().data.clone()
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // A lazy unmount, because a process of a failed test can still have a file open. The thread ends when the last
        // file is closed. If this fails, the directory stays.
        let _ = Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status();
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests until the file system is unmounted.
fn serve(mut device: &File, store: &Mutex<Store>) {
    let mut buffer = vec![0; MAX_WRITE as usize + 4096];
    loop {
        let len = match device.read(&mut buffer) {
            Ok(len) => len,
            // The read was interrupted, or the request was aborted before it.
            Err(error)
                if [Some(Errno::INTR), Some(Errno::NOENT)]
                    .contains(&Errno::from_io_error(&error)) =>
            {
                continue;
            }
            Err(_) => return,
        };
        let request = Request(&buffer[..len]);
        let answer = lock(store).answer(&request);
        let Some(answer) = answer else { continue };
        let (error, body) = match answer {
            Ok(body) => (0, body.0),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut reply = Reply::default();
        reply.u32(u32::try_from(16 + body.len()).unwrap()).u32(error.cast_unsigned());
        reply.u64(request.unique()).bytes(&body);
        // The waiting process may have been killed.
        let _ = device.write(&reply.0);
    }
}

/// `struct fuse_in_header`, and the body of the request.
struct Request<'b>(&'b [u8]);

impl<'b> Request<'b> {
    const HEADER: usize = 40;

    fn opcode(&self) -> u32 {
        u32::from_le_bytes(self.0[4..8].try_into().unwrap())
    }

    fn unique(&self) -> u64 {
        u64::from_le_bytes(self.0[8..16].try_into().unwrap())
    }

    fn node(&self) -> u64 {
        u64::from_le_bytes(self.0[16..24].try_into().unwrap())
    }

    fn uid(&self) -> u32 {
        u32::from_le_bytes(self.0[24..28].try_into().unwrap())
    }

    fn gid(&self) -> u32 {
        u32::from_le_bytes(self.0[28..32].try_into().unwrap())
    }

    /// Returns the body from `at` on.
    fn from(&self, at: usize) -> &'b [u8] {
        &self.0[Self::HEADER + at..]
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.from(at)[..4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.from(at)[..8].try_into().unwrap())
    }

    /// Returns the name that begins at `at`.
    fn name(&self, at: usize) -> &'b OsStr {
        OsStr::from_bytes(CStr::from_bytes_until_nul(self.from(at)).unwrap().to_bytes())
    }
}

/// The body of a reply.
#[derive(Default)]
struct Reply(Vec<u8>);

impl Reply {
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

type Answer = Result<Reply, Errno>;

/// A file or a directory.
#[derive(Debug)]
struct Node {
    /// Type and permissions.
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    /// The number of open handles.
    open: u32,
    data: Vec<u8>,
    entries: BTreeMap<std::ffi::OsString, u64>,
    changed: SystemTime,
}

#[derive(Debug)]
struct Handle {
    node: u64,
    writes: bool,
    /// The fault of its flushes, as it was when the file was opened. A child that another test forks meanwhile has a copy
    /// of the descriptor until its `exec`, and flushes the file then.
    flush: Option<Errno>,
}

/// The contents of the file system. Nodes are emptied but never removed, because tests are short.
#[derive(Debug)]
struct Store {
    faults: Faults,
    nodes: HashMap<u64, Node>,
    handles: HashMap<u64, Handle>,
    /// The next number for a node or a handle.
    next: u64,
}

impl Store {
    fn new(faults: Faults, uid: u32, gid: u32) -> Self {
        let root = Node {
            mode: S_IFDIR | 0o755,
            uid,
            gid,
            links: 2,
            open: 0,
            data: Vec::new(),
            entries: BTreeMap::new(),
            changed: SystemTime::now(),
        };
        Self {
            faults,
            nodes: HashMap::from([(ROOT, root)]),
            handles: HashMap::new(),
            next: ROOT + 1,
        }
    }

    /// Answers a request. Returns `None` if the request has no reply.
    fn answer(&mut self, request: &Request<'_>) -> Option<Answer> {
        Some(match request.opcode() {
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => return None,
            1 => self.child(request.node(), request.name(0)).and_then(|node| self.entry(node)),
            3 => self.attributes(request.node()),
            4 => self.set_attributes(request),
            8 => self.mknod(request),
            9 => self.mkdir(request),
            10 => self.remove(request, false),
            11 => self.remove(request, true),
            12 => self.rename(request, 8, 0),
            13 => self.link(request),
            14 => self.open(request.node(), request.u32(0)),
            15 => self.read(request),
            16 => self.write(request),
            17 => self.statfs(),
            18 => self.release(request.u64(0)),
            20 => self.faults.fsync.map_or(Ok(Reply::default()), Err),
            25 => self.flush(request.u64(0)),
            26 => Ok(init(request)),
            // OPENDIR, RELEASEDIR: directories have no handles.
            27 => Ok(opened(0)),
            29 => Ok(Reply::default()),
            28 => self.readdir(request),
            30 => self.faults.fsync_directory.map_or(Ok(Reply::default()), Err),
            35 => self.create(request),
            38 => Ok(Reply::default()),
            45 => self.rename(request, 16, request.u32(8)),
            46 => self.seek(request),
            51 if self.faults.tmpfile => self.tmpfile(request),
            // The kernel would remember ENOSYS, but a test can change the faults.
            51 => Err(Errno::OPNOTSUPP),
            _ => Err(Errno::NOSYS),
        })
    }

    fn node(&mut self, node: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&node).ok_or(Errno::STALE)
    }

    fn child(&mut self, directory: u64, name: &OsStr) -> Result<u64, Errno> {
        self.node(directory)?.entries.get(name).copied().ok_or(Errno::NOENT)
    }

    /// `struct fuse_attr`
    fn attr(&mut self, number: u64, reply: &mut Reply) -> Result<(), Errno> {
        let fixed = self.faults.mode;
        let node = self.node(number)?;
        let mode = match fixed {
            Some(mode) if node.mode & S_IFMT == S_IFREG => S_IFREG | mode,
            _ => node.mode,
        };
        let len = node.data.len() as u64;
        let changed = node.changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        reply.u64(number).u64(len).u64(len.div_ceil(512));
        for _ in 0..3 {
            reply.u64(changed.as_secs());
        }
        for _ in 0..3 {
            reply.u32(changed.subsec_nanos());
        }
        reply.u32(mode).u32(node.links).u32(node.uid).u32(node.gid).u32(0).u32(4096).u32(0);
        Ok(())
    }

    /// `struct fuse_attr_out`, which the kernel must not cache.
    fn attributes(&mut self, node: u64) -> Answer {
        let mut reply = Reply::default();
        reply.u64(0).u64(0);
        self.attr(node, &mut reply)?;
        Ok(reply)
    }

    /// `struct fuse_entry_out`, which the kernel must not cache.
    fn entry(&mut self, node: u64) -> Answer {
        let mut reply = Reply::default();
        let remembered = self.faults.remembered;
        reply.u64(node).u64(0).u64(remembered).u64(remembered).u64(0);
        self.attr(node, &mut reply)?;
        Ok(reply)
    }

    fn set_attributes(&mut self, request: &Request<'_>) -> Answer {
        let (valid, number) = (request.u32(0), request.node());
        let chmod = self.faults.chmod.filter(|_| valid & 1 != 0);
        if let Some(errno) = chmod {
            return Err(errno);
        }
        let len = request.u64(16);
        if valid & 8 != 0 {
            self.check_room(number, len)?;
        }
        let node = self.node(number)?;
        if valid & 1 != 0 {
            node.mode = node.mode & S_IFMT | request.u32(68) & !S_IFMT;
        }
        if valid & 2 != 0 {
            node.uid = request.u32(76);
        }
        if valid & 4 != 0 {
            node.gid = request.u32(80);
        }
        if valid & 8 != 0 {
            node.data.resize(usize::try_from(len).unwrap(), 0);
            node.changed = SystemTime::now();
        }
        if valid & 32 != 0 {
            let at = std::time::Duration::new(request.u64(40), request.u32(60));
            node.changed = if valid & 256 != 0 { SystemTime::now() } else { UNIX_EPOCH + at };
        }
        self.attributes(number)
    }

    /// Adds a node. A node without a name has no links.
    fn add(
        &mut self,
        request: &Request<'_>,
        mode: u32,
        name: Option<&OsStr>,
    ) -> Result<u64, Errno> {
        let number = self.next;
        if let Some(name) = name {
            let directory = self.node(request.node())?;
            if directory.entries.contains_key(name) {
                return Err(Errno::EXIST);
            }
            directory.entries.insert(name.into(), number);
        }
        self.next += 1;
        let node = Node {
            mode,
            uid: request.uid(),
            gid: request.gid(),
            links: u32::from(name.is_some()),
            open: 0,
            data: Vec::new(),
            entries: BTreeMap::new(),
            changed: SystemTime::now(),
        };
        self.nodes.insert(number, node);
        Ok(number)
    }

    fn mkdir(&mut self, request: &Request<'_>) -> Answer {
        let mode = S_IFDIR | request.u32(0) & 0o7777;
        let node = self.add(request, mode, Some(request.name(8)))?;
        self.entry(node)
    }

    fn mknod(&mut self, request: &Request<'_>) -> Answer {
        let node = self.add(request, request.u32(0), Some(request.name(16)))?;
        self.entry(node)
    }

    fn create(&mut self, request: &Request<'_>) -> Answer {
        let mode = S_IFREG | request.u32(4) & 0o7777;
        let node = self.add(request, mode, Some(request.name(16)))?;
        self.created(node, request.u32(0))
    }

    fn tmpfile(&mut self, request: &Request<'_>) -> Answer {
        let node = self.add(request, S_IFREG | request.u32(4) & 0o7777, None)?;
        self.created(node, request.u32(0))
    }

    fn created(&mut self, node: u64, flags: u32) -> Answer {
        let mut reply = self.entry(node)?;
        reply.bytes(&self.open(node, flags)?.0);
        Ok(reply)
    }

    fn open(&mut self, node: u64, flags: u32) -> Answer {
        self.node(node)?.open += 1;
        let handle = self.next;
        self.next += 1;
        let flush = self.faults.flush;
        self.handles.insert(handle, Handle { node, writes: flags & 3 != 0, flush });
        Ok(opened(handle))
    }

    fn release(&mut self, handle: u64) -> Answer {
        if let Some(handle) = self.handles.remove(&handle) {
            self.node(handle.node)?.open -= 1;
            self.clean(handle.node);
        }
        Ok(Reply::default())
    }

    /// Frees the contents of a file that has no names and no handles.
    fn clean(&mut self, node: u64) {
        if let Some(node) =
            self.nodes.get_mut(&node).filter(|node| node.links == 0 && node.open == 0)
        {
            node.data = Vec::new();
        }
    }

    fn remove(&mut self, request: &Request<'_>, is_directory: bool) -> Answer {
        let number = self.child(request.node(), request.name(0))?;
        let node = self.node(number)?;
        if is_directory && !node.entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        node.links = if is_directory { 0 } else { node.links.saturating_sub(1) };
        self.node(request.node())?.entries.remove(request.name(0));
        self.clean(number);
        Ok(Reply::default())
    }

    fn link(&mut self, request: &Request<'_>) -> Answer {
        if let Some(errno) = self.faults.link {
            return Err(errno);
        }
        let (node, name) = (request.u64(0), request.name(8));
        let directory = self.node(request.node())?;
        if directory.entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        directory.entries.insert(name.into(), node);
        self.node(node)?.links += 1;
        self.entry(node)
    }

    /// Renames a node. The names begin at `at`.
    fn rename(&mut self, request: &Request<'_>, at: usize, flags: u32) -> Answer {
        let (from, to) = (request.node(), request.u64(0));
        let old = request.name(at);
        let new = request.name(at + old.len() + 1);
        let number = self.child(from, old)?;
        let replaced = self.child(to, new).ok();
        let is_open = self.node(number)?.open > 0;
        let faults = &self.faults;
        let refused = faults
            .rename
            .or(faults.rename_flags.filter(|_| flags != 0))
            .or(faults.rename_open.filter(|_| is_open))
            .or(faults.rename_over.filter(|_| replaced.is_some()));
        if let Some(errno) = refused {
            return Err(errno);
        }
        let (no_replace, exchange) = (flags & 1 != 0, flags & 2 != 0);
        match replaced {
            Some(_) if no_replace => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            Some(replaced) if exchange => {
                self.node(from)?.entries.insert(old.into(), replaced);
            }
            Some(replaced) => {
                let node = self.node(replaced)?;
                if !node.entries.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                node.links = node.links.saturating_sub(1);
                self.clean(replaced);
            }
            None => {}
        }
        if !exchange {
            self.node(from)?.entries.remove(old);
        }
        self.node(to)?.entries.insert(new.into(), number);
        self.faults.rename_lost.map_or(Ok(Reply::default()), Err)
    }

    fn read(&mut self, request: &Request<'_>) -> Answer {
        let (start, size) = (request.u64(8), u64::from(request.u32(16)));
        let end = start + size;
        let len = self.node(request.node())?.data.len() as u64;
        let read = start..end.min(len);
        let touches = |range: &Range<u64>| range.start < read.end && read.start < range.end;
        if self.faults.read.iter().any(touches) {
            return Err(Errno::IO);
        }
        let place = |at: u64| usize::try_from(at.min(len)).unwrap();
        let data = &self.node(request.node())?.data;
        Ok(Reply(data[place(start)..place(end)].to_vec()))
    }

    fn write(&mut self, request: &Request<'_>) -> Answer {
        let (start, size) = (request.u64(8), request.u32(16));
        let end = start + u64::from(size);
        if let Some((_, errno)) = self.faults.write.filter(|(limit, _)| end > *limit) {
            return Err(errno);
        }
        self.check_room(request.node(), end)?;
        let node = self.node(request.node())?;
        let [start, end] = [start, end].map(|at| usize::try_from(at).unwrap());
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[start..end].copy_from_slice(&request.from(40)[..size as usize]);
        node.changed = SystemTime::now();
        let mut reply = Reply::default();
        reply.u32(size).u32(0);
        Ok(reply)
    }

    fn used(&self) -> u64 {
        self.nodes.values().map(|node| node.data.len() as u64).sum()
    }

    /// Returns an error if there is no room for a file to be `len` bytes long.
    fn check_room(&mut self, node: u64, len: u64) -> Result<(), Errno> {
        let now = self.node(node)?.data.len() as u64;
        let more = len.saturating_sub(now);
        let room = self.faults.capacity.map(|capacity| capacity.saturating_sub(self.used()));
        match room {
            Some(room) if more > room => Err(Errno::NOSPC),
            _ => Ok(()),
        }
    }

    fn flush(&mut self, handle: u64) -> Answer {
        let handle = self.handles.get(&handle).ok_or(Errno::BADF)?;
        let Some(errno) = handle.flush else { return Ok(Reply::default()) };
        let (node, writes) = (handle.node, handle.writes);
        let node = self.node(node)?;
        if !writes || node.data.is_empty() {
            return Ok(Reply::default());
        }
        node.data.clear();
        Err(errno)
    }

    fn seek(&mut self, request: &Request<'_>) -> Answer {
        const SEEK_DATA: u32 = 3;
        let (offset, whence) = (request.u64(8), request.u32(16));
        let len = self.node(request.node())?.data.len() as u64;
        let is_data = whence == SEEK_DATA;
        if offset >= len || is_data && self.faults.all_hole {
            return Err(Errno::NXIO);
        }
        let mut reply = Reply::default();
        let is_here = is_data || self.faults.all_hole;
        reply.u64(if is_here { offset } else { len });
        Ok(reply)
    }

    /// `struct fuse_statfs_out`
    fn statfs(&self) -> Answer {
        const BLOCK: u64 = 4096;
        let capacity = self.faults.capacity.unwrap_or(1 << 40);
        let free = capacity.saturating_sub(self.used()) / BLOCK;
        let mut reply = Reply::default();
        reply.u64(capacity / BLOCK).u64(free).u64(free).u64(1 << 20).u64(1 << 19);
        reply.u32(4096).u32(255).u32(4096).bytes(&[0; 28]);
        Ok(reply)
    }

    /// Returns the entries from an offset on, each a `struct fuse_dirent`.
    fn readdir(&mut self, request: &Request<'_>) -> Answer {
        let (from, room) = (usize::try_from(request.u64(8)).unwrap(), request.u32(16) as usize);
        let directory = self.node(request.node())?;
        let mut entries = vec![(".".into(), request.node()), ("..".into(), ROOT)];
        entries.extend(directory.entries.iter().map(|(name, node)| (name.clone(), *node)));
        let mut reply = Reply::default();
        for (i, (name, number)) in entries.iter().enumerate().skip(from) {
            let padded = name.len().next_multiple_of(8);
            if reply.0.len() + 24 + padded > room {
                break;
            }
            let kind = self.node(*number)?.mode >> 12;
            let next = i as u64 + 1;
            reply.u64(*number).u64(next).u32(u32::try_from(name.len()).unwrap()).u32(kind);
            reply.bytes(name.as_bytes()).bytes(&[0; 8][..padded - name.len()]);
        }
        Ok(reply)
    }
}

/// `struct fuse_open_out`
fn opened(handle: u64) -> Reply {
    let mut reply = Reply::default();
    reply.u64(handle).u64(0);
    reply
}

/// `struct fuse_init_out`
fn init(request: &Request<'_>) -> Reply {
    const BIG_WRITES: u32 = 1 << 5;
    let mut reply = Reply::default();
    reply.u32(7).u32(request.u32(4).min(31)).u32(request.u32(8)).u32(BIG_WRITES);
    // The default number of background requests, and times in nanoseconds.
    reply.u32(0).u32(MAX_WRITE).u32(1).bytes(&[0; 36]);
    reply
}

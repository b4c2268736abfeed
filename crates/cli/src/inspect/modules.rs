//! A cache for the names of the frames' modules.
//!
//! A hostile dump can have a million frames that alternate between two instances with a million globals each, or between
//! two modules with names of 100,000 bytes. Decoding an instance or a name again for each frame would multiply the work.
//! So each instance is decoded once, and names are cached as they are shown, up to a limit on their bytes.

use std::collections::HashMap;

use corestream::{CoreDumpFile, Error, ErrorKind, InstanceIndex, ModuleIndex, Result};

use super::columns::Columns;
use crate::limits::MAX_KEPT_NAME_BYTES;

/// The name shown for an unknown module.
const UNKNOWN: &str = "<unknown module>";

/// The modules of instances, and a cache of module names.
pub(super) struct Modules<'d> {
    dump: &'d CoreDumpFile<'d>,
    columns: Columns,
    /// The module of each instance; `None` before the first frame.
    of_instances: Option<Vec<Option<ModuleIndex>>>,
    names: HashMap<ModuleIndex, String>,
    /// The size of the cached names in bytes.
    bytes: usize,
}

impl<'d> Modules<'d> {
    pub(super) fn new(dump: &'d CoreDumpFile<'d>, columns: Columns) -> Self {
        Self { dump, columns, of_instances: None, names: HashMap::new(), bytes: 0 }
    }

    /// Returns the name to show for the module of an instance. The dump need not list the instance or its module.
    ///
    /// # Errors
    /// Returns an error if the dump cannot be read, or if the process is out of memory.
    pub(super) fn name_for(&mut self, instance: Option<InstanceIndex>) -> Result<String> {
        let Some(instance) = instance else { return Ok(UNKNOWN.into()) };
        let of_instances = match &mut self.of_instances {
            Some(of_instances) => of_instances,
            none => none.insert(of_instances(self.dump)?),
        };
        let module = of_instances.get(instance.0 as usize).copied().flatten();
        module.map_or(Ok(UNKNOWN.into()), |module| self.name(module))
    }

    fn name(&mut self, module: ModuleIndex) -> Result<String> {
        if let Some(name) = self.names.get(&module) {
            return Ok(name.clone());
        }
        let name = match self.dump.module(module) {
            Ok(name) => self.columns.name(&name),
            // The dump does not list the module.
            Err(error) if error.kind() == ErrorKind::Option => UNKNOWN.into(),
            Err(error) => return Err(error),
        };
        if self.bytes > MAX_KEPT_NAME_BYTES {
            self.names.clear();
            self.bytes = 0;
        }
        self.bytes += name.len() + size_of::<(ModuleIndex, String)>();
        self.names.insert(module, name.clone());
        Ok(name)
    }
}

/// Returns the module of each instance.
///
/// # Errors
/// Returns an error if the dump cannot be read, or if the process is out of memory.
fn of_instances(dump: &CoreDumpFile<'_>) -> Result<Vec<Option<ModuleIndex>>> {
    let instances = dump.instances();
    let mut modules = Vec::new();
    modules
        .try_reserve_exact(instances.len())
        .map_err(|_| Error::new(ErrorKind::OutOfMemory, "cannot allocate a table of instances"))?;
    for instance in instances {
        modules.push(instance?.module);
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    use corestream::read::ReadAt;
    use corestream::{CoreDump, Dumper, Global, GlobalValue, Instance};

    use super::*;

    /// A source that counts the bytes read from it.
    struct Source {
        bytes: Vec<u8>,
        read: AtomicU64,
    }

    impl ReadAt for &Source {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            self.bytes.as_slice().read_exact_at(buffer, offset)
        }
    }

    #[test]
    fn decodes_each_instance_and_each_name_once() {
        let mut guest = CoreDump::new("guest");
        let global = guest.add_global(Global::constant(GlobalValue::I32(1)));
        let names = ["a".repeat(90_000), "b".repeat(90_000)];
        let instances = names.each_ref().map(|name| {
            let module = guest.add_module(name.as_str());
            guest.add_instance(Instance::new(module).with_globals(vec![global; 100_000]))
        });
        let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let source = Source { bytes, read: AtomicU64::new(0) };
        let dump = CoreDumpFile::from_source(&source).unwrap();
        source.read.store(0, Ordering::Relaxed);
        let mut modules = Modules::new(&dump, Columns::new(80));
        for _ in 0..100 {
            for (instance, name) in instances.into_iter().zip(&names) {
                let shown = modules.name_for(Some(instance)).unwrap();
                assert_eq!(shown, format!("{}…", &name[..72]));
            }
            assert_eq!(modules.name_for(None).unwrap(), UNKNOWN);
            assert_eq!(modules.name_for(Some(InstanceIndex(2))).unwrap(), UNKNOWN);
        }
        let (read, len) = (source.read.load(Ordering::Relaxed), source.bytes.len() as u64);
        assert!(read <= len * 3, "{read} bytes of {len} were read");
    }

    #[test]
    fn the_cache_of_names_is_bounded() {
        let mut guest = CoreDump::new("guest");
        for i in 0..30_000 {
            let module = guest.add_module(format!("{i:040}"));
            guest.add_instance(Instance::new(module));
        }
        let bytes = Dumper::new().plan(&guest).unwrap().to_vec().unwrap();
        let dump = CoreDumpFile::from_slice(&bytes).unwrap();
        let mut modules = Modules::new(&dump, Columns::new(80));
        for i in (0..30_000).chain(0..10) {
            let shown = modules.name_for(Some(InstanceIndex(i))).unwrap();
            assert_eq!(shown, format!("{i:040}"));
            assert!(modules.bytes <= MAX_KEPT_NAME_BYTES + 1000 && modules.names.len() < 30_000);
        }
    }
}

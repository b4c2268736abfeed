//! The text form of a stopped guest, for people.

use std::fmt;

use super::core_dump::CoreDump;
use super::thread::Frame;
use super::values::Value;
use crate::visible::Visible;

impl CoreDump<'_> {
    /// Returns the display name of the module to which a frame belongs.
    fn module_of(&self, frame: &Frame) -> String {
        let instance = frame.instance.and_then(|i| self.instances.get(i.0 as usize));
        let module = instance.and_then(|i| i.module);
        match module.and_then(|m| Some((m, self.modules.get(m.0 as usize)?))) {
            Some((index, module)) => {
                Visible(&module.name_or_anonymous(index.0 as usize)).to_string()
            }
            None => "<unknown module>".into(),
        }
    }
}

/// Formats a list of indices, with `?` for an unknown one.
fn indices(list: impl Iterator<Item = Option<u32>>) -> String {
    let list: Vec<String> = list.map(|x| x.map_or("?".into(), |x| x.to_string())).collect();
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

/// Writes the values of a frame in parentheses.
fn write_values(f: &mut fmt::Formatter<'_>, what: &str, values: &[Value]) -> fmt::Result {
    if values.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = values.iter().map(Value::to_string).collect();
    write!(f, " ({what}: {})", list.join(", "))
}

impl fmt::Display for CoreDump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "core dump of {}", Visible(&self.name))?;
        writeln!(f, "modules:")?;
        for (i, module) in self.modules.iter().enumerate() {
            writeln!(f, "  {i}: {}", Visible(&module.name_or_anonymous(i)))?;
        }
        writeln!(f, "instances:")?;
        for (i, instance) in self.instances.iter().enumerate() {
            let module = instance.module.map_or("?".into(), |m| m.to_string());
            let memories = indices(instance.memories.iter().map(|x| x.map(|x| x.0)));
            let globals = indices(instance.globals.iter().map(|x| x.map(|x| x.0)));
            writeln!(f, "  {i}: module {module}, memories {memories}, globals {globals}")?;
        }
        writeln!(f, "memories:")?;
        for (i, memory) in self.memories.iter().enumerate() {
            write!(f, "  {i}: {}, an image of {} bytes", memory.ty, memory.image.len())?;
            match memory.excluded().map_or(0, |ranges| ranges.len()) {
                0 => writeln!(f)?,
                1 => writeln!(f, ", 1 range excluded")?,
                n => writeln!(f, ", {n} ranges excluded")?,
            }
        }
        writeln!(f, "globals:")?;
        for (i, global) in self.globals.iter().enumerate() {
            let mutable = if global.mutable { "mutable " } else { "" };
            writeln!(f, "  {i}: {mutable}{}", global.value)?;
        }
        for thread in &self.threads {
            writeln!(f, "thread {}:", Visible(&thread.name))?;
            for (i, frame) in thread.frames.iter().enumerate() {
                let (module, function) = (self.module_of(frame), frame.function);
                write!(f, "  {i}: {module} function {function} at {:#x}", frame.offset)?;
                write_values(f, "locals", &frame.locals)?;
                write_values(f, "stack", &frame.stack)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CoreDump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreDump")
            .field("name", &self.name)
            .field("modules", &self.modules.len())
            .field("instances", &self.instances.len())
            .field("memories", &self.memories.len())
            .field("globals", &self.globals.len())
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

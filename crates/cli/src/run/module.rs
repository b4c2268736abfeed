//! The types, imports and exports of the guest's module, read before it is compiled.

use std::collections::HashMap;

use wasmparser::{
    CompositeInnerType, ExternalKind, FuncType, Import, Parser, Payload, Result, SubType, TypeRef,
};

/// The sections of a module that describe how to link and call it. The module need not be valid.
#[derive(Default)]
pub struct GuestModule<'b> {
    types: Vec<Type>,
    pub imports: Vec<Import<'b>>,
    /// The type index of each function, imported functions first.
    functions: Vec<u32>,
    exports: HashMap<&'b str, (ExternalKind, u32)>,
    /// The names of exported functions, in the order of the module.
    exported_functions: Vec<&'b str>,
    /// Whether the module has a start function.
    has_start: bool,
}

struct Type {
    ty: SubType,
    /// Whether the type is alone in its recursion group, like a type without `rec`.
    alone: bool,
}

impl<'b> GuestModule<'b> {
    /// Reads the sections before the code section.
    ///
    /// # Errors
    /// Returns an error if a section cannot be parsed.
    pub fn parse(wasm: &'b [u8]) -> Result<Self> {
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        let group = group?;
                        let alone = group.types().len() == 1;
                        let types = group.into_types().map(|ty| Type { ty, alone });
                        module.types.extend(types);
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import.ty {
                            module.functions.push(ty);
                        }
                        module.imports.push(import);
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        module.functions.push(ty?);
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if is_function(export.kind) {
                            module.exported_functions.push(export.name);
                        }
                        module.exports.insert(export.name, (export.kind, export.index));
                    }
                }
                Payload::StartSection { .. } => module.has_start = true,
                // The sections after the start section are not needed.
                Payload::CodeSectionStart { .. } => break,
                _ => {}
            }
        }
        Ok(module)
    }

    /// Returns the kind and index of the export called `name`.
    pub fn export(&self, name: &str) -> Option<(ExternalKind, u32)> {
        self.exports.get(name).copied()
    }

    /// Returns the names of exported functions.
    pub fn exported_functions(&self) -> &[&'b str] {
        &self.exported_functions
    }

    /// Returns whether the module has a start function.
    pub fn has_start(&self) -> bool {
        self.has_start
    }

    /// Returns the type of a function.
    pub fn function_type(&self, function: u32) -> Option<&FuncType> {
        self.signature(*self.functions.get(usize::try_from(function).ok()?)?)
    }

    /// Returns the function type with the given index.
    pub fn signature(&self, ty: u32) -> Option<&FuncType> {
        match self.composite(ty)? {
            CompositeInnerType::Func(ty) => Some(ty),
            _ => None,
        }
    }

    /// Returns the composite type with the given index.
    pub fn composite(&self, ty: u32) -> Option<&CompositeInnerType> {
        Some(&self.get(ty)?.ty.composite_type.inner)
    }

    /// Returns whether a host function can have a type: it must be final, have no supertype, and be alone in its
    /// recursion group.
    pub fn is_plain(&self, ty: u32) -> bool {
        self.get(ty).is_some_and(|Type { ty, alone }| {
            let composite = &ty.composite_type;
            let described = composite.descriptor_idx.is_some() || composite.describes_idx.is_some();
            *alone && ty.is_final && ty.supertype_idxs.is_empty() && !composite.shared && !described
        })
    }

    fn get(&self, ty: u32) -> Option<&Type> {
        self.types.get(usize::try_from(ty).ok()?)
    }
}

/// Returns whether an export of this kind is a function.
pub fn is_function(kind: ExternalKind) -> bool {
    matches!(kind, ExternalKind::Func | ExternalKind::FuncExact)
}

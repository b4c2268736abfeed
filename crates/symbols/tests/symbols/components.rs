//! Matching the core modules of components with the modules of a dump.

use corestream::{
    CoreDump, CoreDumpFile, Dumper, Frame, Instance, Module, ModuleIdentity, ModuleIndex, Thread,
};
use corestream_symbols::{
    Component, Error, ModuleMatch, SymbolFile, Symbols, Verdict, match_modules,
};
use sha2::{Digest, Sha256};
use wasm_encoder::{
    CodeSection, CustomSection, Encode, Function, FunctionSection, NameMap, NameSection,
    TypeSection,
};

/// Returns a core module whose functions have these numbers of `nop` before their ends. The first offset of an instruction
/// is 1.
fn core_module(name: &str, functions: &[usize], custom: &[&str]) -> Vec<u8> {
    let (mut types, mut declared, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    let (mut names, mut function_names) = (NameSection::new(), NameMap::new());
    for (i, nops) in (0..).zip(functions) {
        declared.function(0);
        let mut body = Function::new([]);
        (0..*nops).for_each(|_| _ = body.instructions().nop());
        body.instructions().end();
        code.function(&body);
        function_names.append(i, &format!("{name}-{i}"));
    }
    names.module(name);
    names.functions(&function_names);
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&declared).section(&code).section(&names);
    for name in custom {
        module.section(&CustomSection { name: (*name).into(), data: b"\x01x"[..].into() });
    }
    module.finish()
}

/// Returns a component with these core modules. Those after the first are in a nested component.
fn component(modules: &[&[u8]]) -> Vec<u8> {
    let with = |sections: &[(u8, &[u8])]| {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        for (id, content) in sections {
            bytes.push(*id);
            content.encode(&mut bytes);
        }
        bytes
    };
    let (first, others) = modules.split_first().unwrap();
    let inner: Vec<_> = others.iter().map(|module| (1, *module)).collect();
    with(&[(1, first), (4, &with(&inner))])
}

/// A module of a dump: its name, the bytes that its identity is of, and the functions and offsets of its frames.
type Listed<'m> = (&'m str, Option<&'m [u8]>, &'m [(u32, u32)]);

/// Returns a dump with a thread in which the frames follow each other.
fn dump(modules: &[Listed<'_>]) -> Vec<u8> {
    let mut dump = CoreDump::new("guest");
    let mut all = Vec::new();
    for (name, bytes, frames) in modules {
        let identity =
            bytes.map(|bytes| ModuleIdentity::new().with_sha256(Sha256::digest(bytes).into()));
        let module = Module::new(*name).with_identity(identity.unwrap_or_default());
        let module = dump.add_module(module);
        let instance = dump.add_instance(Instance::new(module));
        all.extend(
            frames.iter().map(|(function, offset)| Frame::new(instance, *function, *offset)),
        );
    }
    // One thread for each frame, because a frame that called another one must be at a call.
    for frame in all {
        dump.add_thread(Thread::new("main").with_frames([frame]));
    }
    Dumper::new().plan(&dump).unwrap().to_vec().unwrap()
}

/// Returns the indices of modules with symbols and the names of the functions of all frames. Asserts that there is no
/// warning.
fn names(files: &[SymbolFile<'_>], dump: &[u8]) -> (Vec<(u32, bool)>, Vec<Option<String>>) {
    let dump = CoreDumpFile::from_slice(dump).unwrap();
    let symbols = Symbols::new(files, &dump).unwrap();
    assert_eq!(symbols.warnings().collect::<Vec<_>>(), [""; 0]);
    assert_eq!(match_modules(files, &dump).unwrap(), symbols.matches());
    let is_certain = |found: &ModuleMatch| (found.module.0, found.verdict == Verdict::Certain);
    let matches = symbols.matches().iter().map(is_certain).collect();
    let name = |thread: corestream::Result<_>| {
        let frame = corestream::read::ThreadView::frames(&thread.unwrap()).next().unwrap().unwrap();
        symbols.resolve(&frame, 0).unwrap().and_then(|resolved| resolved.name)
    };
    (matches, dump.threads().map(name).collect())
}

fn error(files: &[SymbolFile<'_>], dump: &[u8]) -> Error {
    let dump = CoreDumpFile::from_slice(dump).unwrap();
    let error = match_modules(files, &dump).unwrap_err();
    assert_eq!(Symbols::new(files, &dump).unwrap_err(), error);
    error
}

fn some(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| (!name.is_empty()).then(|| (*name).to_owned())).collect()
}

#[test]
fn all_instances_of_a_core_module_get_its_symbols() {
    let [a, b, unused] = ["a", "b", "unused"].map(|name| core_module(name, &[1, 2], &[]));
    // Composed components have the same core module several times.
    let wasm = component(&[&a, &b, &unused, &b, b"\0asm\x01\0\0\0garbage"]);
    let frames = &[(1, 1)][..];
    let dump = dump(&[
        ("one:b", Some(&b), frames),
        ("a", Some(&a), frames),
        ("two:b", Some(&b), frames),
        ("adapter(one, two)", None, frames),
    ]);
    let file = SymbolFile::new("c.wasm", &wasm);
    let expected = (vec![(0, true), (1, true), (2, true)], some(&["b-1", "a-1", "b-1", ""]));
    assert_eq!(names(&[file], &dump), expected);
    // A module that the user names too changes nothing.
    let component = Component::read(&file).unwrap();
    assert_eq!(names(component.modules(), &dump), expected);
    assert_eq!(names(&component.modules()[1..2], &dump).0, [(0, true), (2, true)]);
    assert_eq!(names(&[SymbolFile::new("a.wasm", &a), file], &dump), expected);

    let opened = CoreDumpFile::from_slice(&dump).unwrap();
    let matches = match_modules(&[SymbolFile::new("b.wasm", &b), file], &opened).unwrap();
    let files: Vec<_> = matches.iter().map(|found| found.code).collect();
    assert_eq!(files, [Some(0), Some(1), Some(0)]);
}

#[test]
fn a_component_that_did_not_run_is_an_error() {
    let [a, b] = ["a", "b"].map(|name| core_module(name, &[1], &[]));
    let ran = core_module("ran", &[5], &[]);
    let wasm = component(&[&a, &b]);
    // The frame is past the ends of the functions. A name is no evidence against an identity.
    for name in ["ran", "a"] {
        let dump = dump(&[("ran", Some(&ran), &[(0, 4)]), (name, Some(b"other"), &[])]);
        let error = error(&[SymbolFile::new("c.wasm", &wasm)], &dump);
        assert_eq!(
            error.to_string(),
            "c.wasm: no core module of this component matches a module of the dump; pass the component that \
             ran, or INDEX=FILE"
        );
    }
    let dump = dump(&[("ran", Some(&ran), &[])]);
    let error = |wasm: &[u8]| error(&[SymbolFile::new("c.wasm", wasm)], &dump).to_string();
    assert_eq!(error(&component(&[&a])[..8]), "c.wasm: is a component without core modules");
    assert_eq!(
        error(b"\0asm\x0d\0\x01\0\x09"),
        "c.wasm: has no core module before a fault: unexpected end-of-file (at offset 0x9)"
    );
}

/// Another build has the name, and not the functions.
#[test]
fn a_core_module_of_another_build_is_named_in_the_warning() {
    let (ran, built) = (core_module("main", &[5], &[]), core_module("main", &[2], &[]));
    let (other, wasm) = (core_module("other", &[1], &[]), component(&[&built]));
    let dump = dump(&[("main", Some(&ran), &[(0, 4)]), ("other", Some(&other), &[])]);
    let dump = CoreDumpFile::from_slice(&dump).unwrap();
    let symbols = Symbols::new(&[SymbolFile::new("c.wasm", &wasm)], &dump).unwrap();
    let warnings: Vec<_> = symbols.warnings().collect();
    assert_eq!(
        warnings,
        [
            "c.wasm, core module 0 is not module 0 of the dump: frame 0 of thread 0: has no offset 0x4 in \
             function 0, which has 0x4 bytes"
        ]
    );
}

/// A stripped copy of the component ran, so that no identity decides.
#[test]
fn symbols_of_a_component_that_was_stripped() {
    let whole = [("a", &[1, 4][..]), ("b", &[1, 1, 6]), ("b-copy", &[1, 1, 6]), ("c", &[3])]
        .map(|(name, functions)| core_module(name, functions, &[]));
    let wasm = component(&whole.each_ref().map(|module| &module[..]));
    let file = [SymbolFile::new("c.wasm", &wasm)];
    // Function 1 of `a` has an instruction at 4, and no other core module. `c` has no frame.
    let dump_of = |frames_of_b| {
        dump(&[
            ("x:#0", Some(b"stripped a"), &[(1, 4)]),
            ("y:#0", Some(b"stripped a"), &[(0, 1)]),
            ("#1", Some(b"stripped b"), frames_of_b),
            ("#2", Some(b"stripped c"), &[]),
            ("adapter(x, y)", None, &[(1, 4)]),
        ])
    };
    let expected = some(&["a-1", "a-0", "", ""]);
    assert_eq!(names(&file, &dump_of(&[(2, 6)])), (vec![(0, false), (1, false)], expected));
    let one = component(&[&whole[0], &whole[1]]);
    let expected = (vec![(0, false), (1, false), (2, false)], some(&["a-1", "a-0", "b-2", ""]));
    assert_eq!(names(&[SymbolFile::new("c.wasm", &one)], &dump_of(&[(2, 6)])), expected);
    // A name decides between the two.
    let named = dump(&[("b", Some(b"stripped b"), &[(2, 6)]), ("#1", Some(b"x"), &[])]);
    assert_eq!(names(&file, &named), (vec![(0, false)], some(&["b-2"])));
}

/// The name of a core module in a nested component follows a path.
#[test]
fn the_last_part_of_a_name_decides_between_core_modules_that_fit() {
    let whole = ["b", "b(2)", "b-copy", "wit-component:shim", "adapter"]
        .map(|name| core_module(name, &[1, 6], &[]));
    let c = core_module("c", &[1, 9], &[]);
    let mut parts: Vec<_> = whole.iter().map(|module| &module[..]).collect();
    parts.push(&c);
    let wasm = component(&parts);
    let file = SymbolFile::new("c.wasm", &wasm);
    let of = |name, offset| dump(&[(name, Some(b"x"), &[(1, offset)]), ("#1", Some(b"y"), &[])]);
    for (name, expected) in [
        ("x:b", "b-1"),
        ("x/y:b", "b-1"),
        ("b(3)", "b-1"),
        ("x:b(wit-component:shim)", "b-1"),
        ("x:b[2]", "b-1"),
        ("x:b-copy(instance)[2]", "b-copy-1"),
        ("wasi:http/handler@0.2.0:wit-component:shim", "wit-component:shim-1"),
    ] {
        let dump = of(name, 6);
        assert_eq!(names(&[file], &dump), (vec![(0, false)], some(&[expected])), "{name}");
        let at = file.with_module(ModuleIndex(0));
        assert_eq!(names(&[at], &dump).1, some(&[expected]), "{name}");
    }
    // Other names decide nothing, and neither does a name that two core modules can have.
    for name in ["x:bb", "x/b", "b:x", "b[x]", "adapter(x, y)", "adapter(x:b)", "x:b(2)"] {
        let dump = of(name, 6);
        let message = error(&[file], &dump).to_string();
        assert!(message.contains("no core module of this component matches"), "{name}: {message}");
    }
    // The frames fit another core module only.
    assert_eq!(names(&[file], &of("x:b", 9)), (vec![(0, false)], some(&["c-1"])));

    // Two modules have the name. Without an identity, it may be an adapter.
    let frames = &[(1, 6)][..];
    for identity in [Some(&b"y"[..]), None] {
        let dump = dump(&[("x:b", Some(b"x"), frames), ("y:b", identity, frames)]);
        let found = match_modules(&[file], &CoreDumpFile::from_slice(&dump).unwrap());
        assert_eq!(found.map_or(0, |found| found.len()), usize::from(identity.is_none()));
    }
    // Instances of one core module have its identity.
    let dump = dump(&[("x:b", Some(b"x"), frames), ("y:b", Some(b"x"), frames)]);
    assert_eq!(names(&[file], &dump).1, some(&["b-1", "b-1"]));
}

#[test]
fn an_index_chooses_one_module() {
    let [a, b] = ["a", "b"].map(|name| core_module(name, &[1, 2], &[]));
    let c = core_module("c", &[9], &[]);
    let wasm = component(&[&a, &b, &c]);
    let frames = &[(1, 1)][..];
    let dump = dump(&[
        ("one:b", Some(&b), frames),
        ("two:b", Some(&b), frames),
        ("#0", Some(b"stripped c"), &[(0, 9)]),
        ("#1", Some(b"stripped a or b"), frames),
        ("a", Some(b"stripped a"), &[]),
    ]);
    let at = |index| SymbolFile::new("c.wasm", &wasm).with_module(ModuleIndex(index));
    assert_eq!(names(&[at(1)], &dump), (vec![(1, true)], some(&["", "b-1", "", ""])));
    assert_eq!(names(&[at(2)], &dump), (vec![(2, false)], some(&["", "", "c-0", ""])));
    assert_eq!(names(&[at(4)], &dump).0, [(4, false)]);
    assert_eq!(names(&[at(0), at(1), at(2)], &dump).1, some(&["b-1", "b-1", "c-0", ""]));
    assert_eq!(
        error(&[at(3)], &dump).to_string(),
        "c.wasm: cannot tell which of its core modules is module 3 of the dump; extract that one with `wasm-tools \
         component unbundle`, and pass 3=MODULE.wasm"
    );
    assert_eq!(error(&[at(5)], &dump).to_string(), "c.wasm: there is no module 5; the dump has 5");
}

/// The bytes are those of the module that ran, with debugging information added.
#[test]
fn an_identity_can_be_set() {
    let ran = core_module("a", &[1], &[]);
    let with_lines = core_module("a", &[1], &["lines"]);
    let dump = dump(&[("x", Some(&ran), &[(0, 1)]), ("y", Some(&ran), &[(0, 1)])]);
    let wasm = component(&[&with_lines]);
    let component = Component::read(&SymbolFile::new("c.wat", &wasm)).unwrap();
    let module = component.modules()[0];
    assert_eq!((module.core_module(), module.path().to_str()), (Some(0), Some("c.wat")));
    let file = module.with_sha256(Sha256::digest(&ran).into());
    let expected = some(&["a-0", "a-0"]);
    assert_eq!(names(&[file], &dump), (vec![(0, true), (1, true)], expected.clone()));
    assert_eq!(names(&[module], &dump), (vec![(0, false), (1, false)], expected));
}

/// The debugging information of a core module can be in a file of its own.
#[test]
fn a_core_module_can_refer_to_a_companion() {
    let code = core_module("a", &[1], &["external_debug_info"]);
    let wasm = component(&[&code]);
    let dump = dump(&[("one:a", Some(&code), &[(0, 1)]), ("two:a", Some(&code), &[(0, 1)])]);
    let dump = CoreDumpFile::from_slice(&dump).unwrap();
    let file = SymbolFile::new("c.wasm", &wasm);
    let symbols = Symbols::new(&[file], &dump).unwrap();
    let expected = "c.wasm, core module 0: its debugging information is in another file; also pass that file: x";
    assert_eq!(symbols.warnings().collect::<Vec<_>>(), [expected]);
    let companion = core_module("a", &[1], &[".debug_info"]);
    let files = [file, SymbolFile::new("dir/x", &companion)];
    let matches = match_modules(&files, &dump).unwrap();
    let debug: Vec<_> = matches.iter().map(|found| found.debug).collect();
    assert_eq!(debug, [Some(1), Some(1)]);
}

#[test]
fn many_core_modules_and_many_modules_cost_little() {
    let modules: Vec<_> =
        (0..5000).map(|i| core_module(&i.to_string(), &[i % 7, i], &[])).collect();
    let wasm = component(&modules.iter().map(|module| &module[..]).collect::<Vec<_>>());
    let names: Vec<_> = (0..20_000).map(|i| format!("#{i}")).collect();
    let identities: Vec<_> = (0..20_000_u32).map(|i| i.to_le_bytes()).collect();
    let listed = names.iter().zip(&identities);
    let mut listed: Vec<Listed<'_>> =
        listed.map(|(name, bytes)| (&name[..], Some(&bytes[..]), &[(0, 1)][..])).collect();
    listed[7].1 = Some(&modules[3]);
    let dump = self::dump(&listed);
    let dump = CoreDumpFile::from_slice(&dump).unwrap();
    let matches = match_modules(&[SymbolFile::new("c.wasm", &wasm)], &dump).unwrap();
    assert_eq!((matches.len(), matches[0].module), (1, ModuleIndex(7)));

    // Modules of one kind, which have a core module or a file. They must not use up the limit: the last module is that of
    // the only core module with this offset.
    let other = core_module("other", &[2], &[]);
    let files = [SymbolFile::new("c.wasm", &wasm), SymbolFile::new("other.wasm", &other)];
    for (bytes, count) in [(&modules[3], 1), (&other, 2)] {
        let mut listed: Vec<Listed<'_>> = vec![("#0", Some(bytes), &[(0, 1)]); 20_000];
        listed.push(("#1", Some(b"stripped"), &[(1, 5000)]));
        let dump = self::dump(&listed);
        let dump = CoreDumpFile::from_slice(&dump).unwrap();
        let matches = match_modules(&files[..count], &dump).unwrap();
        assert_eq!((matches.len(), matches[20_000].code), (20_001, Some(0)));
    }
    // Too many frames of one kind for a comparison with each core module.
    let mut listed: Vec<Listed<'_>> = vec![("#0", Some(b"other"), &[(0, 1)]); 20_000];
    listed.push(("#1", Some(&modules[3]), &[]));
    let dump = self::dump(&listed);
    let dump = CoreDumpFile::from_slice(&dump).unwrap();
    let matches = match_modules(&files[..1], &dump).unwrap();
    assert_eq!((matches.len(), matches[0].module), (1, ModuleIndex(20_000)));
}

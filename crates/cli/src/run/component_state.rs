//! The data of a component's store: WASI, and the point at which snapshots freeze the guest.
//!
//! # The problem
//! A guest can wait in a host call, and neither an epoch nor a snapshot reaches it there. [`host_call`](super::host_call)
//! explains this for core modules.
//!
//! # The idea
//! This module redefines all functions of WASI 0.2 that can wait. Each takes WASI out of the store for the call, and waits
//! with [`host_call::wait`](super::host_call::wait), which looks for the time limit and for a wanted snapshot. The
//! bindings of `wasmtime-wasi` give their functions no access to the store, so this module calls their implementations
//! itself.

use std::future::{Future, ready};
use std::pin::Pin;

use wasmtime::Result;
use wasmtime::component::{
    ComponentNamedList, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTable, ResourceType,
};
use wasmtime_wasi::filesystem::WasiFilesystemView;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self as fs, Advice, Descriptor, DescriptorFlags, HostDescriptor, NewTimestamp, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{FsResult, StreamError, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host as _, HostPollable};
use wasmtime_wasi_io::bindings::wasi::io::streams::{
    self, Host as _, HostInputStream, HostOutputStream,
};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::host_call::{Pending, wait};
use super::snapshot::{GuestState, SnapshotPoint};

/// The version of WASI that `wasmtime-wasi` 48 provides, for guests of any version 0.2.
pub const VERSION: &str = "0.2.12";

/// The data of the store.
pub struct ComponentState {
    /// WASI. A host call that may wait takes it out, so that the store can be captured while the call waits.
    wasi: Option<Box<Wasi>>,
    pub snapshots: Option<SnapshotPoint<Self>>,
}

/// WASI and the resources of the guest.
struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
}

impl ComponentState {
    pub fn new(context: WasiCtx, snapshots: Option<SnapshotPoint<Self>>) -> Self {
        let table = ResourceTable::new();
        Self { wasi: Some(Box::new(Wasi { context, table })), snapshots }
    }

    fn take_wasi(&mut self) -> Result<Box<Wasi>> {
        self.wasi.take().ok_or_else(|| wasmtime::Error::msg("WASI is in use by another host call"))
    }
}

impl GuestState for ComponentState {
    fn snapshots(&self) -> Option<&SnapshotPoint<Self>> {
        self.snapshots.as_ref()
    }
}

impl WasiView for ComponentState {
    /// Must not be called within a host call that has taken WASI.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match &mut self.wasi {
            Some(wasi) => wasi.ctx(),
            None => unreachable!("a host call of WASI calls no other one"),
        }
    }
}

impl WasiView for Wasi {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }
}

impl Wasi {
    /// Converts the result of a call on a stream to the type that the guest expects.
    fn of_stream<R>(
        &mut self,
        result: StreamResult<R>,
    ) -> Result<(Result<R, streams::StreamError>,)> {
        match result {
            Ok(value) => Ok((Ok(value),)),
            Err(error) => Ok((Err(self.table.convert_stream_error(error)?),)),
        }
    }

    /// Converts the result of a call on a file to the type that the guest expects.
    fn of_file<R>(&mut self, result: FsResult<R>) -> Result<(Result<R, fs::ErrorCode>,)> {
        match result {
            Ok(value) => Ok((Ok(value),)),
            Err(error) => Ok((Err(fs::Host::convert_error_code(&mut self.filesystem(), error)?),)),
        }
    }
}

impl From<Pending> for StreamError {
    fn from(pending: Pending) -> Self {
        Self::Trap(pending.into())
    }
}

/// A call of WASI.
type Call<'w, R> = Pin<Box<dyn Future<Output = Result<R>> + Send + 'w>>;

/// Names the call that was pending. The standard streams wait themselves, and name the call of WASI preview 1.
fn named<R>(name: &'static str, result: Result<R>) -> Result<R> {
    match result {
        Err(error) if error.is::<Pending>() => Err(Pending(name).into()),
        result => result,
    }
}

/// Redefines a function of an interface. `call` calls the implementation of `wasmtime-wasi`.
fn define<P, R>(
    interface: &mut LinkerInstance<'_, ComponentState>,
    name: &'static str,
    call: for<'w> fn(&'w mut Wasi, P) -> Call<'w, R>,
) -> Result<()>
where
    P: ComponentNamedList + Lift + Send + 'static,
    R: ComponentNamedList + Lower + Send + 'static,
{
    let shown = name.trim_start_matches("[method]");
    interface.func_wrap_async(name, move |mut store, parameters: P| {
        Box::new(async move {
            let mut wasi = store.data_mut().take_wasi()?;
            let result = wait(shown, call(&mut wasi, parameters), &mut store).await;
            store.data_mut().wasi = Some(wasi);
            named(shown, result)
        })
    })
}

/// Redefines the destructor of a resource. `call` calls the implementation of `wasmtime-wasi`.
fn define_drop<R: 'static>(
    interface: &mut LinkerInstance<'_, ComponentState>,
    name: &'static str,
    shown: &'static str,
    call: for<'w> fn(&'w mut ResourceTable, Resource<R>) -> Call<'w, ()>,
) -> Result<()> {
    interface.resource_async(name, ResourceType::host::<R>(), move |mut store, resource| {
        Box::new(async move {
            let mut wasi = store.data_mut().take_wasi()?;
            let resource = Resource::new_own(resource);
            let result = wait(shown, call(&mut wasi.table, resource), &mut store).await;
            store.data_mut().wasi = Some(wasi);
            named(shown, result)
        })
    })
}

/// Redefines functions of streams.
macro_rules! streams {
    ($interface:ident, $($name:literal => $function:path: ($($arg:ident: $ty:ty),*);)*) => {$(
        define(&mut $interface, $name, |wasi, ($($arg,)*): ($($ty,)*)| {
            Box::pin(async move {
                let result = $function(&mut wasi.table, $($arg),*).await;
                wasi.of_stream(result)
            })
        })?;
    )*};
}

/// Redefines functions of files and directories.
macro_rules! files {
    ($interface:ident, $($name:literal => $function:ident($($arg:ident: $ty:ty),*);)*) => {$(
        define(&mut $interface, $name, |wasi, (file, $($arg,)*): (Resource<Descriptor>, $($ty,)*)| {
            Box::pin(async move {
                let result = wasi.filesystem().$function(file, $($arg),*).await;
                wasi.of_file(result)
            })
        })?;
    )*};
}

/// Redefines the functions that can wait. The linker already has all functions, and must allow shadowing.
pub fn add_to_linker(linker: &mut Linker<ComponentState>) -> Result<()> {
    add_poll(&mut linker.instance(&format!("wasi:io/poll@{VERSION}"))?)?;
    add_streams(linker.instance(&format!("wasi:io/streams@{VERSION}"))?)?;
    add_files(linker.instance(&format!("wasi:filesystem/types@{VERSION}"))?)
}

fn add_poll(poll: &mut LinkerInstance<'_, ComponentState>) -> Result<()> {
    define(poll, "poll", |wasi, (pollables,): (Vec<Resource<DynPollable>>,)| {
        Box::pin(async move { Ok((wasi.table.poll(pollables).await?,)) })
    })?;
    define(poll, "[method]pollable.block", |wasi, (pollable,): (Resource<DynPollable>,)| {
        Box::pin(async move { wasi.table.block(pollable).await })
    })
}

fn add_streams(mut streams: LinkerInstance<'_, ComponentState>) -> Result<()> {
    type In = Resource<DynInputStream>;
    type Out = Resource<DynOutputStream>;
    streams!(streams,
        "[method]input-stream.blocking-read" => HostInputStream::blocking_read: (of: In, len: u64);
        "[method]input-stream.blocking-skip" => HostInputStream::blocking_skip: (of: In, len: u64);
        "[method]output-stream.write" => write: (to: Out, bytes: Vec<u8>);
        "[method]output-stream.write-zeroes" => write_zeroes: (to: Out, len: u64);
        "[method]output-stream.splice" => splice: (to: Out, from: In, len: u64);
        "[method]output-stream.blocking-write-and-flush"
            => HostOutputStream::blocking_write_and_flush: (to: Out, bytes: Vec<u8>);
        "[method]output-stream.blocking-write-zeroes-and-flush"
            => HostOutputStream::blocking_write_zeroes_and_flush: (to: Out, len: u64);
        "[method]output-stream.blocking-flush" => HostOutputStream::blocking_flush: (to: Out);
        "[method]output-stream.blocking-splice"
            => HostOutputStream::blocking_splice: (to: Out, from: In, len: u64);
    );
    define_drop::<DynInputStream>(
        &mut streams,
        "input-stream",
        "[drop]input-stream",
        |table, stream| Box::pin(HostInputStream::drop(table, stream)),
    )?;
    define_drop::<DynOutputStream>(
        &mut streams,
        "output-stream",
        "[drop]output-stream",
        |table, stream| Box::pin(HostOutputStream::drop(table, stream)),
    )
}

/// Writes to a stream. Only the standard streams wait here, in the call itself.
fn write(
    table: &mut ResourceTable,
    to: Resource<DynOutputStream>,
    bytes: Vec<u8>,
) -> impl Future<Output = StreamResult<()>> {
    ready(HostOutputStream::write(table, to, bytes))
}

fn write_zeroes(
    table: &mut ResourceTable,
    to: Resource<DynOutputStream>,
    len: u64,
) -> impl Future<Output = StreamResult<()>> {
    ready(HostOutputStream::write_zeroes(table, to, len))
}

fn splice(
    table: &mut ResourceTable,
    to: Resource<DynOutputStream>,
    from: Resource<DynInputStream>,
    len: u64,
) -> impl Future<Output = StreamResult<u64>> {
    ready(HostOutputStream::splice(table, to, from, len))
}

fn add_files(mut types: LinkerInstance<'_, ComponentState>) -> Result<()> {
    files!(types,
        "[method]descriptor.advise" => advise(offset: u64, len: u64, advice: Advice);
        "[method]descriptor.sync-data" => sync_data();
        "[method]descriptor.get-flags" => get_flags();
        "[method]descriptor.get-type" => get_type();
        "[method]descriptor.set-size" => set_size(size: u64);
        "[method]descriptor.set-times" => set_times(accessed: NewTimestamp, modified: NewTimestamp);
        "[method]descriptor.read" => read(len: u64, offset: u64);
        "[method]descriptor.write" => write(bytes: Vec<u8>, offset: u64);
        "[method]descriptor.read-directory" => read_directory();
        "[method]descriptor.sync" => sync();
        "[method]descriptor.create-directory-at" => create_directory_at(path: String);
        "[method]descriptor.stat" => stat();
        "[method]descriptor.stat-at" => stat_at(flags: PathFlags, path: String);
        "[method]descriptor.set-times-at" => set_times_at(
            flags: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp
        );
        "[method]descriptor.link-at" => link_at(
            flags: PathFlags, path: String, new_directory: Resource<Descriptor>, new_path: String
        );
        "[method]descriptor.open-at" => open_at(
            path_flags: PathFlags, path: String, open_flags: OpenFlags, flags: DescriptorFlags
        );
        "[method]descriptor.readlink-at" => readlink_at(path: String);
        "[method]descriptor.remove-directory-at" => remove_directory_at(path: String);
        "[method]descriptor.rename-at" => rename_at(
            path: String, new_directory: Resource<Descriptor>, new_path: String
        );
        "[method]descriptor.symlink-at" => symlink_at(target: String, path: String);
        "[method]descriptor.unlink-file-at" => unlink_file_at(path: String);
        "[method]descriptor.metadata-hash" => metadata_hash();
        "[method]descriptor.metadata-hash-at" => metadata_hash_at(flags: PathFlags, path: String);
    );
    type Two = (Resource<Descriptor>, Resource<Descriptor>);
    define(&mut types, "[method]descriptor.is-same-object", |wasi, (file, other): Two| {
        Box::pin(async move { Ok((wasi.filesystem().is_same_object(file, other).await?,)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Engine;

    /// A name or version that the linker does not have would define a function that no guest calls.
    #[test]
    fn every_redefined_function_exists() {
        let mut linker = Linker::new(&Engine::default());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let is_twice = |result: Result<()>| {
            let error = format!("{:#}", result.unwrap_err());
            assert!(error.contains("defined twice"), "{error}");
        };
        for (interface, names) in [
            ("wasi:io/poll", &["poll", "[method]pollable.block"][..]),
            (
                "wasi:io/streams",
                &[
                    "[method]input-stream.blocking-read",
                    "[method]output-stream.blocking-splice",
                    "input-stream",
                    "output-stream",
                ],
            ),
            ("wasi:filesystem/types", &["[method]descriptor.open-at"]),
        ] {
            for name in names {
                let mut interface = linker.instance(&format!("{interface}@{VERSION}")).unwrap();
                is_twice(interface.func_wrap(name, |_, ()| Ok(())));
            }
        }
        is_twice(add_to_linker(&mut linker));
    }
}

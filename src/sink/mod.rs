//! The destinations of pieces: files, pipes, sockets, and any `Write`.

mod backend;
mod descriptor;
mod file;
mod pipe;
mod socket;
mod traits;
mod transport;

pub use file::FileSink;
pub use pipe::PipeSink;
pub use socket::SocketSink;
pub use traits::Sink;

//! The C face: the CUDA driver API over `gpu`, and the only module that knows handles, contexts and streams.
//!
//! It refuses to know PTX and instructions: a module is what `ptx` loads, a launch is what `machine` runs.
//!
//! From below: `error`, `abi`, `handles`, `platform` and `limits`; `state`, the objects that handles stand for and what
//! streams do; the calls, a file per kind of object; and `entry`, which lists them all.
//!
//! The surprise: nothing is asynchronous. Work on a stream runs in the caller's thread before the call returns, so all
//! work of a thread runs in the order of its calls. A stream promises only that its own work runs in order and an
//! event only that it completes after what came before it; the caller's order keeps both, so it is one of the
//! executions that a GPU may choose. `cuStreamQuery` therefore always finds the stream idle. A capturing stream
//! records nodes instead (`capture`). What a kernel breaks shows like on a GPU: the launch succeeds, and every later
//! call in the context returns the error.
#![allow(non_snake_case)]

/// Defines exported functions: `fn name [aliases] (arguments) { body }`, where the body ends in an `R` and may follow
/// the caller's pointers. `SYMBOLS` lists the names with their addresses for `cuGetProcAddress`.
macro_rules! api {
    ($($(#[$doc:meta])* fn $name:ident [$($alias:ident)*] $args:tt $body:block)*) => {
        $(
            api!(@export [$(#[$doc])*] $name $args $body);
            $(api!(@alias $name $alias $args);)*
        )*
        /// The functions of this file.
        pub(super) const SYMBOLS: &[(&str, *const ())] =
            &[$((stringify!($name), $name as *const ()), $((stringify!($alias), $alias as *const ()),)*)*];
    };
    (@export [$(#[$doc:meta])*] $name:ident ($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, unused_unsafe)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            // SAFETY: the driver API's contract: a pointer that is not null is good for what the function's
            // documentation says is there.
            crate::driver::error::status(|| unsafe { $body })
        }
    };
    (@alias $name:ident $alias:ident ($($arg:ident: $ty:ty),* $(,)?)) => {
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        pub unsafe extern "C" fn $alias($($arg: $ty),*) -> u32 {
            // SAFETY: the same function under another name.
            unsafe { $name($($arg),*) }
        }
    };
}

mod abi;
mod capture;
mod context;
mod copy;
mod device;
mod emu;
mod entry;
mod error;
mod event;
mod function;
mod graph;
mod graph_edit;
mod graph_node;
mod handles;
mod launch;
mod limits;
mod memory;
mod module;
mod platform;
mod pool;
mod state;
mod stream;
mod tensor;

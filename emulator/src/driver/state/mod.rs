//! The objects that handles stand for, their tables, and what a stream does with them. It refuses to know which call
//! asks: the exported functions are beside this folder.

pub mod capture;
pub mod context;
pub mod function;
pub mod graph;
pub mod kernel;
pub mod module;
pub mod stream;
pub mod transfer;
pub mod work;

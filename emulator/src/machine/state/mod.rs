//! What there is while a launch runs, by who owns it: the grid, a block (`cta`), a warp. It refuses to know what
//! instructions do to it: that is beside this folder.

pub mod barrier;
pub mod cluster;
pub mod copies;
pub mod cta;
pub mod grid;
pub mod mbarrier;
pub mod products;
pub mod warp;

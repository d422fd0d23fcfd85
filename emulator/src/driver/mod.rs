//! The C face: the CUDA driver API over memory, modules and launches.

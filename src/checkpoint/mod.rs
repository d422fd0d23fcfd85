//! A model folder on disk: config, tensors, names. Knows nothing of executors.

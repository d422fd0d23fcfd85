//! From picture files to patches: decode, resize, normalise. Knows nothing of models or executors.

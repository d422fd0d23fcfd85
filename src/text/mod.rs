//! From messages to token ids and positions. Knows nothing of models or executors.

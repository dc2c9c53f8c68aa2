"""From text to training windows: sources, tokenizer, memory-mapped shards, order of samples."""

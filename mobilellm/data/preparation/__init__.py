"""From a corpus to a data folder: tokenizer, shards and counts."""

"""Preparation of a corpus: tokenizer, shards, counts and baselines of a data folder."""

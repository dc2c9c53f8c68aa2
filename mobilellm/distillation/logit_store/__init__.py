"""A teacher's most likely tokens on disk."""

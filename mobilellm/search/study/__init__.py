"""A study: the trials of a search, their records in files, and the proposals for further ones."""

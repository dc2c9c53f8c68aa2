"""The page of a search: front, importance of the settings, tokens saved, and comparisons."""

"""The search command: a study whose trials are ordinary runs."""

"""Conversations: their layouts in files, function calls, chat templates, and trained tokens."""

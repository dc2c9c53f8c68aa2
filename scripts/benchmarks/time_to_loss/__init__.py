"""Tokens and time until a loss is reached, beside other projects with tuned settings."""

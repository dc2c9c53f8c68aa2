"""Errors, exit codes and messages of all commands, independent of Hydra."""

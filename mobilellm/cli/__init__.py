"""What every command shares: errors, exit codes, messages and help."""

"""What every command shares: errors, exit codes and messages. Nothing here depends on Hydra."""

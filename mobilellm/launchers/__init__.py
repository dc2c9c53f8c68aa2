"""How commands start: error messages, sweeps, and a Hydra launcher with a process a trial."""

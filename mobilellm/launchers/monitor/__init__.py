"""The state of runs and sweeps, read from their files and from SLURM."""

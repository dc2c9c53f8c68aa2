"""The launcher `slurm`: trials as jobs of a cluster."""

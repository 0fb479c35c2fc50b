"""Training: Lightning runs the loop; order of the data, checkpoints and guards are ours, so that a resume is exact."""

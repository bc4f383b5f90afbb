"""Training in four stages: configuration, losses, sampling, the loop, checkpoints and logs."""

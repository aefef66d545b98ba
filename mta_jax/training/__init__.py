"""Training: config, optimiser, step, checkpoints and the loop."""

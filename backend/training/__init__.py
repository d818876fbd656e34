"""Training: configuration, the episode of simulated clicks, the loop, its state and logs."""

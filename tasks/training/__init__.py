"""Training: parts, ranks, the loop, checkpoints, canaries, and what a run tells of itself."""

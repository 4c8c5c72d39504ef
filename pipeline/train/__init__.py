"""One training loop for teacher, student and baseline: optimiser, augmentation, precision, ranks, checkpoints."""

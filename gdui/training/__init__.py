"""What every training loop shares: checkpoints, mixed precision, ranks, and the order in which pictures come."""

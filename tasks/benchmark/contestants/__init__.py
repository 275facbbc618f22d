"""Who takes part: optimizers by name, each with its sweep of learning rates."""

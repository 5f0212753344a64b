"""The training loop: steps, checkpoints, failures and memory budget."""

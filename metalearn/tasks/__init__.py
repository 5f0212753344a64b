"""Episodes: drawing, augmenting and loading few-shot tasks."""

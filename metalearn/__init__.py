"""Few-shot learning by hypergradients, with memory that doesn't grow with the lower-level steps."""

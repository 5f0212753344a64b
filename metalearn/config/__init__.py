"""Settings of a run: records, their file form, and their schema."""

"""Long experiments, each one command that can be stopped and continued: see `__main__`."""

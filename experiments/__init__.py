"""The long experiments, each one command that can be stopped and goes on: see `__main__`."""

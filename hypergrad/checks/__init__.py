"""The parts of ``hypergrad.check``: one question about a user's problem in each file."""

"""Linear solvers: frozen values that solve ``A x = b`` for a batch, given products."""

"""Lower solvers: frozen values that minimise every task's lower objective."""

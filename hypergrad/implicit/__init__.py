"""The implicit kernel: linearise the condition, solve the adjoint system, attach the result."""

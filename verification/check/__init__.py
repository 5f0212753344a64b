"""``python -m verification check module:function``: does a user's problem meet the theory's terms?

trajectory  upper steps on the user's problem, with the lower level solved to round-off
estimates   mu, L, kappa and the Lipschitz constants at the points that were visited
verdicts    which assumptions were seen to hold, which are violated, which cannot be known
advice      K, N and step sizes for a wanted accuracy, and the error measured with them
report      all of it, as tables and as JSON
command     the subcommand

What an objective does wrong in itself (captured tensors, leaks between tasks, a wrong derivative)
is `hypergrad.check`'s affair, whose findings are repeated here.
"""

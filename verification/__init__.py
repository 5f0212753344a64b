"""Promises of hypergrad, the exact answers it is held to, and the bugs that would be noticed.

families    bilevel problems whose minimisers and derivatives are known (theory.md, section 1)
oracles     their exact hypergradients in NumPy alone, and how far rounding may move them
instances   such problems at random, from a seed; strategies: the same, drawn by hypothesis
claims      what is promised, as functions of the implementation under test
subjects    implementations that can stand such a test
mutants     bugs planted on purpose (by planting): a claim that notices none shows nothing
registry    all of it together; suite and runner: what a run is; report: its page
checkouts   the same bugs in copies of the source text

Nothing here imports metalearn.
"""

"""Promises of hypergrad, the exact answers it is held to, and the bugs that would be noticed.

problems    bilevel problems whose minimisers and derivatives are known, drawn from a seed
oracles     their exact hypergradients in NumPy alone, and the rounding errors to expect
subjects    implementations under test, and bugs planted in the library's source
claims      promises, as functions of a subject, with more planted bugs beside them
suite       the list of claims, and the runner that puts them to their subjects
report      the result file, its page and its figures

Nothing here imports metalearn.
"""

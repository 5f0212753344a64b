"""Mutation testing of the shipped code: would the tests notice a slip anywhere in it?

    python -m tests.mutation --out FILE

The changes are those of mutmut's operators. mutmut's own runner leaves decorated functions out,
and with them the `solve` of every linear solver here, so that the runs are this package's:

generate  mutants of a module, one changed expression each
plugin    a pytest plugin: which tests run which lines; then every mutant against its tests
__main__  the command; docs/mutation-testing.md says how to read what it prints

Development only: it needs the extra `mutants` and a system that can fork.
"""

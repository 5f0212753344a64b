"""Answers of other libraries and this one in the same eight situations; see __main__.py."""

"""What other libraries and this one return in the same eight situations; see __main__.py."""

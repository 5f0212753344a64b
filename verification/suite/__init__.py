"""The list of claims, and the runner that puts them to their subjects."""

"""Readers of files that strangers made; `child` runs them in a process with limits."""

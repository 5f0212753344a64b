"""Readers of files that strangers made."""

"""Conditions beside other libraries: value, error, time, and what is said where none exists."""

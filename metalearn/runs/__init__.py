"""Run folders: settings, records, provenance and metrics."""

"""Run folders: settings, records, provenance, metrics and curves."""

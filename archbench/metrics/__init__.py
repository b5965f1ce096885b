"""Metrics as pure functions, one family per file; each entry is found through `archbench.registry.METRICS`."""

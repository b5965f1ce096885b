"""Architectures by name, one family per file; `archbench.models.building` makes networks of them."""

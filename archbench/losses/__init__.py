"""Losses by name, one per file. Each is a factory that takes the recipe's numbers and gives cell values and weights."""

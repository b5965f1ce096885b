"""Losses by name, one per file. Each is a factory that takes class weights and the recipe's numbers."""

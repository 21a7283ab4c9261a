"""Measurements of what the requirements put a figure on."""

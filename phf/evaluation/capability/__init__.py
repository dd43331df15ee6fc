"""Measures of what a model can still do."""

"""Samples from a model, and computes the probability of given text."""

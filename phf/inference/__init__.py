"""Inference: sampling from a model, and the probability of given text."""

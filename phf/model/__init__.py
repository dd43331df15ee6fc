"""Builds language models, gives them control tokens, and knows the folder of an exported model."""

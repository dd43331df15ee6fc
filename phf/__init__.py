"""Pretraining language models with human feedback (Korbak et al. 2023, arXiv 2302.08582)."""

__version__ = "0.1.0"

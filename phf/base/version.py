"""Holds the version, for modules that `phf` itself imports."""

__version__ = "0.1.0"

"""Reads the results of evaluated runs, compares them, and draws tables and figures."""

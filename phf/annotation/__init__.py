"""Scores every segment of the documents and keeps the scores beside them."""

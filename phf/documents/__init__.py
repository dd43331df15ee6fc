"""Reads documents: file formats, shards, segmenters, fingerprints."""

"""Documents: file formats, shards, segmenters, fingerprints."""

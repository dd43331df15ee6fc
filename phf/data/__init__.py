"""From documents to blocks of tokens: readers, segmenters, annotation, token store, packed view."""

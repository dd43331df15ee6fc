"""What several tests share: corpora, runs, models and servers."""

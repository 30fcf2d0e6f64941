"""Use cases of the indexer, one a file, and the pure ideas they rest on."""

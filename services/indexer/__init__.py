"""The indexer: takes documents in, keeps them durably in the catalog, and projects them into the vector store and the change feed."""

"""The processes of a stack on one machine: ChromaDB, indexer, query, run as children and stopped in order."""

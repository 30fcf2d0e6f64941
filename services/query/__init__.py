"""The query service: answers searches from its own replica and the vector store."""

"""The use cases of the query service, and the pure ideas they are made of."""

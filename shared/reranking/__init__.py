"""Models that read a query and a text together and say how well the text answers. Importing this imports no model library."""

"""The services and the command line, each a package of its own."""

"""How good the answers are, and the collection that says so."""

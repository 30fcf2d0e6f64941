"""How good the answers are: labelled collections through the real services, measured with the reference implementations of the measures."""

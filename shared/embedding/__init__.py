"""Embedding models: found, exported, run and cached. `factory.py` is where a service begins."""

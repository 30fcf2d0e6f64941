"""The catalog: the one place where what was acknowledged is kept. Everything else is a projection of it."""

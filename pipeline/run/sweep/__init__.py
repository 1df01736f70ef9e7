"""`perdure sweep`: one recipe under several settings and seeds."""

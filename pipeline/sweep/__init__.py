"""Sweeps: one recipe with several values of some fields, run as one; what runs have in common is made once."""

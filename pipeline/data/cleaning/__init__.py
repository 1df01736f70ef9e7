"""Cleaning: one file a step; each counts what it drops."""

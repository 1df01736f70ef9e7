"""Commented recipes to copy."""

"""Checks of a recipe, a file for each part of it, and what is told of a recipe before a run: preview, memory, sizing."""

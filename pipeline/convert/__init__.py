"""Hugging Face import and export, one mapping table per model family."""

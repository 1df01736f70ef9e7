"""All stages of a recipe in order, and sweeps of recipes."""

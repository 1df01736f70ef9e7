"""Published experiments in miniature: recipes, the text that one of them needs, and tables of what came out."""

"""Loss matrix, continual-learning metrics and the report."""

"""Perdure: the pipeline from text and a model to the model's next version."""

"""The run's tokenizer: trained, loaded, extended, compared."""

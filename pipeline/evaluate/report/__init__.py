"""The report: what was recorded, summarised, drawn and compared."""

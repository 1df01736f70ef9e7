"""Which sample a version trains on at which step, and what its lineage has consumed."""

"""Starting the trainer's ranks, one file per backend."""

"""What every room builds on: errors, artefacts on disk, shards, locks, Slurm's commands, the console."""

"""The single checks that `perdure.pipeline.checks.check` runs, by part of the recipe."""

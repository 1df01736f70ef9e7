"""The single checks that `perdure.pipeline.check` runs, by part of the recipe."""

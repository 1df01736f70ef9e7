"""Recipes of a main path, branches off it and updates of it."""

from tiny import tiny_recipe

STEP = 32 * 8
"""Tokens of a step."""
CONSTANT = {"type": "constant", "max_lr": 0.01, "warmup": 0}
MIXTURE = {"sources": {"a": {"weight": 3}, "b": {}}, "max_repetition": 100}


def recipe_of(out, versions: dict):
    reader = {"reader": {"type": "text", "path": str(out / "text")}}
    (out / "text").mkdir()
    (out / "text" / "some.txt").write_text("some text " * 100)
    return tiny_recipe(out, versions=versions, sources={"a": reader, "b": reader})


def main_path(steps: int, **changes) -> dict:
    start = {"start": {"type": "init"}, "tokens": STEP * steps, "mixture": MIXTURE, "schedule": CONSTANT}
    return start | changes


def branch(step: int, steps: int, **changes) -> dict:
    start = {"type": "branch", "parent": "main", "step": step}
    return {"start": start, "tokens": STEP * steps, "schedule": {"type": "decay"}} | changes


def update(parent: str, steps: int, **changes) -> dict:
    return main_path(steps) | {"start": {"type": "update", "parent": parent}} | changes

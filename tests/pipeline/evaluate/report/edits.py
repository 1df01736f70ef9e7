"""Every edit of a recipe's fields, one at a time, for tests of what is read from records."""

from copy import deepcopy

from pydantic import ValidationError

from perdure.pipeline.recipe import Recipe

ANYWHERE = [True, False, None, 0, 1, 2, 3, 7, 0.125, 0.5, 1.5, "x", "other", ["x"], [7], "sequence"]
SUBTREES = {
    "versions.base.start": [{"type": "update", "parent": "next"}],
    "versions.next.start": [{"type": "init"}, {"type": "branch", "parent": "base", "step": 3}],
    "versions.side.start": [{"type": "init"}, {"type": "update", "parent": "next"}],
    "versions.next.selection": [None, {"reference": "base"}],
    "versions.plain.selection": [{"reference": "base"}],
    "versions.next.mixture": [{"sources": {"a@de/science": {}, "b": {}}}],
    "versions.next.mixture.sources": [{"a": {}}, {"a": {}, "b": {}}, {"b/topic": {}}],
    "versions.next.mixture.replay": [None, {"share": 0.5, "from_parents": True}],
    "versions.base.mixture.switches": [[], [{"at": 0.25, "sources": {"b": {}}}]],
    "versions.base.mixture.reweight": [{"interval": 100, "alpha": 0.5}],
    "versions.base.mixture.domain_order": ["given", "random", "similarity"],
    "versions.moved.mixture.reweight": [None],
    "versions.base.schedule": [
        {"type": "constant", "max_lr": 1.0},
        {"type": "cosine", "max_lr": 1.0, "min_lr": 0.1},
        {"type": "wsd", "max_lr": 1.0, "min_lr": 0.1},
        {"type": "decay", "max_lr": 1.0},
        {"type": "autoregressive", "max_lr": 1.0, "min_lr": 0.1},
    ],
    "versions.side.schedule": [{"type": "decay", "max_lr": 1.0}],
    "model": [{"type": "huggingface", "path": "gone/model"}],
    "tokenizer": [{"type": "huggingface", "path": "gone/tokenizer"}],
    "sources": [{"a": {"reader": {"type": "text", "path": "unused"}}}],
    "evaluation.harness": [{"include_path": "gone", "tasks": ["x"]}],
    "evaluation.contamination": [None],
    "evaluation.probes": [["gone.jsonl"]],
}

FITTING = {
    "clean": [[]],
    "adapter": [{"type": "lora", "rank": 2, "alpha": 4}],
    "objective": [{"type": "instruct"}],
    "anchor": [{"type": "l2", "strength": 0.1}],
    "elastic_reset": [{"interval": 2, "ema": 0.5}],
    "reptile": [{"interval": 2, "rate": 0.5}],
    "lowest_perplexity": [{"share": 0.5}],
    "replay": [{"share": 0.1, "sources": {"b": {}}}],
    "switches": [[{"at": at, "sources": {"a": {}}}] for at in (0.5, 0.25)],
    "reweight": [{"interval": 512, "alpha": 0.1}],
    "selection": [{"k": 0.25, "score": "random"}],
    "order": ["shuffled", "easy_to_hard"],
    "moments": ["reset"],
    "share_of": ["read"],
    "groups": [[["a"], ["b"]], {"all": ["a", "b"]}],
    "cooldown_shape": ["inverse_sqrt"],
    "decay_shape": ["exponential"],
    "decay_ends": [[0.5, 1.0]],
    "loss_implementation": ["chunked"],
    "attention": ["flash2"],
    "linears": ["transformer_engine"],
    "fp8": [{"recipe": "current"}],
    "on_nan": ["stop", "skip", "rollback"],
    "on_spike": ["stop", "skip", "rollback"],
    "harness": [{"include_path": "gone", "tasks": ["x"]}],
}
FIELDS: set[str] = set()
"""All that were edited."""
UNTRIED = (
    "cluster.",
    "logging.",
    "sources.a.topics",
    "sources.a.subset",
    "sources.b.topics",
    "sources.b.subset",
)
"""Whole sections that say nothing of a version; what fits there would have to be made up."""


def _leaves(tree, path=()):
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _put(tree: dict, path: tuple, value) -> Recipe | None:
    """The recipe with another value; None if that is none of a recipe, or changes nothing."""
    edited = deepcopy(tree)
    node = edited
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    try:
        recipe = Recipe.model_validate(edited)
    except ValidationError:
        return None
    return None if recipe.model_dump(mode="json") == tree else recipe


def _choices(tree: dict, path: tuple) -> list:
    """Values to try at a place: near the one that is there, then whatever fits."""
    node = tree
    for key in path:
        node = node[key]
    near = [2 * node, node / 2] if isinstance(node, int | float) and not isinstance(node, bool) else []
    if isinstance(node, float) and 0 < node < 1:
        near = [node / 2, (1 + node) / 2]
    texts = ["given", "excess", "global", "keep", "linear", "bf16", "fp32"]
    return [
        *FITTING.get(path[-1], []),
        *near,
        *ANYWHERE,
        *texts,
        *([[*node, "x"]] if isinstance(node, list) else []),
    ]


TOGETHER = ("sources", "data", "scoring", "parallel", "kernels", "logging", "cluster", "model", "training")
"""Sections whose fields are edited all at once: they are many, and one of them would be enough."""


def edits(recipe: Recipe) -> dict[str, Recipe]:
    """Edited recipes by what was edited: every field of every version by itself, other sections as a whole."""
    tree = recipe.model_dump(mode="json")
    found, together = {}, {section: deepcopy(tree) for section in TOGETHER}
    for path in _leaves(tree):
        if path[0] == "out" or path[-1] == "type":  # whole subtrees have other types, see `SUBTREES`
            continue
        if path[:2] == ("versions", "plain"):  # has the fields of `next`
            continue
        made = next((made for value in _choices(tree, path) if (made := _put(tree, path, value))), None)
        what = ".".join(path)
        assert made is not None or what.startswith(UNTRIED), f"{what}: no other value fits"
        if made is not None and path[0] in TOGETHER:
            node = other = together[path[0]]
            new = made.model_dump(mode="json")
            for key in path[:-1]:
                node, new = node[key], new[key]
            before, node[path[-1]] = node[path[-1]], new[path[-1]]
            try:
                Recipe.model_validate(other)
            except ValidationError:  # does not go with another edit
                node[path[-1]] = before
                found[what] = made
            else:
                FIELDS.add(what)
        elif made is not None:
            found[what] = made
            FIELDS.add(what)
    found |= {f"all of {section}": Recipe.model_validate(other) for section, other in together.items()}
    for place, values in SUBTREES.items():
        for value in values:
            edited = _put(tree, tuple(place.split(".")), value)
            assert edited is not None, f"{place} = {value}: no recipe"
            found[f"{place} = {value}"] = edited
    without = {name: version for name, version in tree["versions"].items() if name != "base"}
    orphans = {"next": {"type": "init"}, "plain": {"type": "init"}, "side": {"type": "init"}}
    for name, start in orphans.items():
        without[name] = without[name] | {"start": start}
    found["versions without base"] = _put(tree, ("versions",), without)
    shorter = {name: tree["versions"][name] for name in ("base", "side")}
    found["versions without next, plain, moved"] = _put(tree, ("versions",), shorter)
    return found

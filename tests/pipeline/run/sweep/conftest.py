"""Sweeps as `gather` returns them, made up: numbers by hand."""

import pytest

from perdure.pipeline.run.sweep.gather import IN_A_UNIT, row_of

FIELD = "versions.update.mixture.replay.share"


def version(loss: float, seconds: float, **more) -> dict:
    """A measured version, its parent's loss being 4 on prose and 6 on code."""
    found = {
        "directory": "versions/update@1",
        "status": "finished",
        "losses": {"prose": loss, "code": 5.0},
        "change": {"prose": loss - 4, "code": -1.0},
        **{"acc": -(loss + 5) / 2, "bwt": 4 - loss, "forgetting": loss - 4},
        **{"stability_gap": None, "probes": None, "fuar": None},
        **{"tokens": 1000, "lineage_tokens": 3000, "selected_fraction": 1.0},
        **{"seconds": seconds, "tokens_per_second": seconds / 0.6},
    }
    found |= more
    return found | {"in_bits_per_byte": in_bits(found)}


def in_bits(found: dict) -> dict:
    """Made up: a quarter of it, in every domain alike, so that numbers are exact."""

    def quarter(value):
        if isinstance(value, dict):
            return {key: part if key == "recovery_tokens" else quarter(part) for key, part in value.items()}
        return value and value / 4

    return {key: quarter(found[key]) for key in IN_A_UNIT}


def waiting() -> dict:
    empty = dict.fromkeys(version(0, 0))
    return empty | {
        "directory": "versions/update@2",
        "status": "waiting",
        "losses": {},
        "change": {},
        "in_bits_per_byte": None,
    }


def run(setting: dict, seed: int, versions: dict) -> dict:
    name = ",".join(
        [*(f"{path.rpartition('.')[2]}={value}" for path, value in setting.items()), f"seed={seed}"]
    )
    whole = all(version["status"] == "finished" for version in versions.values())
    return {
        **{"name": name, "setting": setting, "seed": seed, "directory": f"runs/{name}", "versions": versions},
        **{"status": "whole" if whole else "waiting", "error": None},
    }


def sweep(runs: list[dict], compared: list[str], arms: list[str]) -> dict:
    settings = [
        setting
        for i, run in enumerate(runs)
        if (setting := run["setting"]) not in [r["setting"] for r in runs[:i]]
    ]
    domains = ["prose", "code"]
    rows = [
        row_of(setting, name, [run for run in runs if run["setting"] == setting], domains)
        for setting in settings
        for name in compared
    ]
    return {
        **{"name": "replay", "recipe": "replay.yaml", "over": {}, "variants": {}, "seeds": [1, 2]},
        **{
            "domains": domains,
            "unit": "nats_per_token",
            "compared": compared,
            "arms": arms,
            "runs": runs,
            "rows": rows,
        },
    }


@pytest.fixture
def swept() -> dict:
    """Three values of a field; two seeds of the first, one of the second, none of the third."""
    runs = [
        run({FIELD: share}, seed, {"update": waiting() if loss is None else version(loss, 60 * seed)})
        for share, seed, loss in ((0, 1, 4.5), (0, 2, 5.0), (0.25, 1, 4.25), (0.25, 2, None), (0.5, 1, None))
    ]
    return sweep(runs, ["update"], [])


@pytest.fixture
def seeded() -> dict:
    """Two seeds of a recipe with two arms off one base, with probes and measurements while training."""

    def gap(depth: float, back: int | None) -> dict:
        return {
            "macro": {"depth": depth / 2, "recovery_tokens": 0},
            "domains": {"prose": {"depth": depth, "recovery_tokens": back}},
        }

    def fuar(value: float | None) -> dict:
        ratio = {"value": value, "lost": 0.1, "gained": 0.1 / value if value else 0.0}
        return {"parent": ratio, "initial": {"value": None, "lost": 0.0, "gained": 0.0}}

    def arm(loss: float, back: int | None, value: float | None) -> dict:
        kinds = {"invariant": 0.75, "new": loss / 8}
        return version(loss, 60, stability_gap=gap(0.5, back), probes=kinds, fuar=fuar(value))

    runs = [
        run(
            {},
            seed,
            {
                "base": version(4.0, 60, bwt=None, forgetting=None, lineage_tokens=1000),
                "replay_0": arm(4.5 + 0.25 * seed, None, 2.0),
                "replay_5": arm(4.25, [2000, None][seed - 1], [0.5, None][seed - 1]),
            },
        )
        for seed in (1, 2)
    ]
    return sweep(runs, ["base", "replay_0", "replay_5"], ["replay_0", "replay_5"])

"""What a sweep found: `sweep.json`, a table, a page with plots, and TensorBoard's table of hyper-parameters."""

import shutil
import statistics
from collections.abc import Callable
from itertools import groupby
from typing import Any

import yaml

from perdure.pipeline.domains import measured_domains
from perdure.pipeline.evaluate.words import duration_words
from perdure.pipeline.lineage import version_directory
from perdure.pipeline.manifest import hash_of, is_finished, read_json, write_atomic, write_json
from perdure.pipeline.sweep.page import render_sweep
from perdure.pipeline.sweep.spec import Plan, Run
from perdure.pipeline.sweep.store import version_keys, version_places

Say = Callable[[str], None]
MEASURED = ("tokens", "tokens_per_second", "seconds", "selected_fraction")


def write_results(plan: Plan, say: Say) -> dict:
    """Writes `<out>/sweep.json`, `sweep.html` and `runs/<run>/tb` from what is there, and says the table.

    Returns:
        What `sweep.json` holds, see `gather`.
    """
    found = gather(plan)
    write_json(plan.directory / "sweep.json", found)
    write_atomic(plan.directory / "sweep.html", render_sweep(found))
    _write_board(plan, found)
    say(sweep_table(found))
    say(f"Page with plots: {plan.directory / 'sweep.html'}; numbers: {plan.directory / 'sweep.json'}")
    say(f"tensorboard --logdir {plan.directory / 'runs'}  # curves of all runs; HPARAMS compares them")
    return found


def gather(plan: Plan) -> dict[str, Any]:
    """Reads the reports of a sweep's runs.

    Returns:
        JSON-serialisable; losses are mean nats per held-out token, what is not measured is null:

        - `name`, `recipe`, `over`, `variants`, `seeds`: what was asked for; `domains`; `compared`: the versions that
          the swept fields decide.
        - `runs`: per run its `name`, `setting`, `seed`, `status` (`whole`, `started`, `waiting`), `directory`, and
          `versions`: by name its `directory` in the sweep's, `status`, `losses` and `change` (against the version that
          it started from) by domain, `tokens`, `tokens_per_second`, `seconds`, `selected_fraction`.
        - `rows`: per setting and compared version its `runs` (names of those measured) of `planned` ones, and over
          them the `mean`, standard deviation `sd` (n - 1; null for one), `min` and `max` of `losses` and `change` by
          domain, and of `tokens_per_second` and `seconds`.
    """
    places = version_places(plan)
    runs = [_run(plan, run, places[run.name]) for run in plan.runs]
    compared = compared_versions(plan.runs)
    domains = list(dict.fromkeys(domain for run in plan.runs for domain in measured_domains(run.recipe)))
    rows = []
    for setting, group in groupby(runs, key=lambda run: run["setting"]):
        members = list(group)
        rows += [
            _row(setting, name, members, domains)
            for name in compared
            if any(name in run["versions"] for run in members)
        ]
    sweep = plan.sweep.model_dump(mode="json", exclude={"out"})
    return {"name": plan.name, **sweep, "domains": domains, "compared": compared, "runs": runs, "rows": rows}


def compared_versions(runs: list[Run]) -> list[str]:
    """The versions that differ between settings; the last one where only seeds are swept."""
    kinds: dict[str, set] = {}
    for run in runs:
        keys = version_keys(run.recipe.model_copy(update={"seed": 0}), run.setting)
        for name in [*kinds, *keys]:
            kinds.setdefault(name, set())
        for name, key in keys.items():
            kinds[name].add(key)
    everywhere = set.intersection(*(set(run.recipe.versions) for run in runs))
    differing = [name for name, keys in kinds.items() if len(keys) > 1 or name not in everywhere]
    return differing or list(runs[0].recipe.versions)[-1:]


def _run(plan: Plan, run: Run, places: dict) -> dict[str, Any]:
    directory = run.recipe.directory
    # After an edit of the recipe, another version's directory may still be linked.
    linked = all(version_directory(run.recipe, name).resolve() == places[name].resolve() for name in places)
    written = linked and (directory / "report.json").exists()
    empty: dict = {"versions": [], "loss_matrix": [], "domains": []}
    report = read_json(directory / "report.json") if written else empty
    found = {version["id"]: version for version in report["versions"]}
    rows = dict(zip(found, report["loss_matrix"][1:]))
    versions = {}
    for name in run.recipe.versions:
        version = found.get(name, {})
        done = is_finished(places[name])
        versions[name] = {
            "directory": str(places[name].relative_to(plan.directory)),
            "status": "finished" if done else version.get("status", "waiting"),
            "losses": dict(zip(report["domains"], rows[name])) if name in rows else {},
            "change": version.get("change", {}),
            **{key: version.get(key) for key in MEASURED},
        }
    states = [version["status"] for version in versions.values()]
    whole = written and set(states) == {"finished"}
    return {
        "name": run.name,
        "setting": run.setting,
        "seed": run.seed,
        "status": "whole" if whole else "waiting" if set(states) == {"waiting"} else "started",
        "directory": str(directory.relative_to(plan.directory)),
        "versions": versions,
    }


def _row(setting: dict, name: str, runs: list[dict], domains: list[str]) -> dict[str, Any]:
    measured = [run for run in runs if run["status"] == "whole" and name in run["versions"]]
    versions = [run["versions"][name] for run in measured]
    return {
        "setting": setting,
        "version": name,
        "runs": [run["name"] for run in measured],
        "planned": len(runs),
        **{
            key: {domain: _spread([version[key].get(domain) for version in versions]) for domain in domains}
            for key in ("losses", "change")
        },
        **{key: _spread([version[key] for version in versions]) for key in ("tokens_per_second", "seconds")},
    }


def _spread(values: list[float | None]) -> dict[str, float | None] | None:
    """Mean, sample standard deviation, extremes; None if nothing was measured."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    return {
        "mean": statistics.fmean(present),
        "sd": statistics.stdev(present) if len(present) > 1 else None,
        "min": min(present),
        "max": max(present),
    }


def plan_words(plan: Plan) -> str:
    """The runs of a sweep before they start: where each stands, and which of its versions it shares or has already."""
    places = version_places(plan)
    users: dict = {}
    for run in plan.runs:
        for place in places[run.name].values():
            users.setdefault(place, []).append(run.name)
    lines = [f"{plan.name}: {len(plan.runs)} runs in {plan.directory}"]
    for run in plan.runs:
        parts = []
        for name, place in places[run.name].items():
            first = users[place][0]
            state = (
                "finished"
                if is_finished(place)
                else "to train"
                if first == run.name
                else f"shared with {first}"
            )
            parts.append(f"{name} {state}")
        lines.append(f"  {run.name}: {', '.join(parts)}")
    made = sum(is_finished(place) for place in users)
    lines.append(
        f"{len(users)} versions to make for {sum(map(len, users.values()))} places, {made} of them finished"
    )
    return "\n".join(lines)


def setting_words(setting: dict[str, Any]) -> str:
    """A setting in a table: values as typed, each with the last part of its field."""
    parts = []
    for path, value in setting.items():
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1000)
        text = text.removesuffix("...\n").strip()
        parts.append(text if path == "variant" else f"{path.rpartition('.')[2]} {text}")
    return ", ".join(parts) or "the recipe's own"


def sweep_table(found: dict[str, Any]) -> str:
    """The rows of a sweep as plain text."""
    several = len(found["compared"]) > 1
    with_seeds = len(found["seeds"]) > 1
    head = ["setting", *(["version"] if several else []), "runs"]
    head += [cell for domain in found["domains"] for cell in (domain, "")]
    table = [[*head, "tokens/s", "time"]]
    for row in found["rows"]:
        cells = [setting_words(row["setting"]), *([row["version"]] if several else [])]
        cells.append(f"{len(row['runs'])} of {row['planned']}")
        for domain in found["domains"]:
            loss, change = row["losses"][domain], row["change"][domain]
            cells.append(spread_words(loss))
            cells.append(f"({change['mean']:+.3f})" if change else "")
        speed, seconds = row["tokens_per_second"], row["seconds"]
        cells += [
            f"{speed['mean']:,.0f}" if speed else "-",
            duration_words(seconds["mean"]) if seconds else "-",
        ]
        table.append(cells)
    whole = sum(run["status"] == "whole" for run in found["runs"])
    versions = ", ".join(found["compared"])
    title = (
        f"{found['name']}: {whole} of {len(found['runs'])} runs whole. Held-out loss of {versions}, nats per token"
        f"{', mean ± standard deviation over seeds' if with_seeds else ''} (change against the version it started from)"
    )
    widths = [max(map(len, column)) for column in zip(*table)]
    left = 1 + several
    lines = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    ]
    return "\n".join(["", title, "", lines[0], "-" * max(map(len, lines)), *lines[1:], ""])


def spread_words(spread: dict | None) -> str:
    """A mean with its standard deviation, if there is one."""
    if spread is None:
        return "-"
    return f"{spread['mean']:.3f}" + ("" if spread["sd"] is None else f" ± {spread['sd']:.3f}")


def _write_board(plan: Plan, found: dict[str, Any]) -> None:
    """TensorBoard's hyper-parameter table: a row per whole run, whose metrics are its versions' held-out losses."""
    for run in found["runs"]:
        board = plan.directory / run["directory"] / "tb"
        done, state = board / "hparams.json", hash_of(run)
        if run["status"] != "whole" or (done.exists() and read_json(done) == state):
            continue
        from torch.utils.tensorboard.summary import hparams
        from torch.utils.tensorboard.writer import SummaryWriter

        settings = {path: _scalar(value) for path, value in run["setting"].items()}
        settings |= {} if run["seed"] is None else {"seed": run["seed"]}
        metrics = {
            f"heldout_loss/{name}/{domain}": loss
            for name in found["compared"]
            if name in run["versions"]
            for domain, loss in run["versions"][name]["losses"].items()
            if loss is not None
        }
        shutil.rmtree(board, ignore_errors=True)
        with SummaryWriter(str(board)) as writer:
            for summary in hparams(settings, metrics):
                writer.file_writer.add_summary(summary)
            for name, value in metrics.items():
                writer.add_scalar(name, value, 0)
        write_json(done, state)


def _scalar(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else setting_words({"": value}).strip()

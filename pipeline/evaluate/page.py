"""The report as one HTML file: opens offline, prints, follows light and dark; a pure function of `report.json`."""

import math

from perdure.pipeline.evaluate.figures import SERIES_COLOURS, Line, line_chart
from perdure.pipeline.evaluate.words import (
    layout_words,
    mixture_words,
    replay_findings,
    share_words,
    signed,
    tokens_words,
    verdict,
)

_STRONGEST = 60
"""Percent of colour behind the strongest cell; more would hurt the contrast of its text."""


def render_page(report: dict) -> str:
    """Renders the page.

    Args:
        report: What `build_report` returns (or `report.json` holds).

    Returns:
        HTML; equal reports give equal bytes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("perdure.pipeline.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "tokens": tokens_words,
        "signed": signed,
        "share": share_words,
        "verdict": verdict,
        "mixture": mixture_words,
        "layout": layout_words,
        "loss": lambda loss: f"{loss:.3f}",
    }
    rows = {version["id"]: losses for version, losses in zip(report["versions"], report["loss_matrix"][1:])}
    return environment.get_template("page.html").render(
        report=report,
        rows=rows,
        best=[_best(column) for column in zip(*report["loss_matrix"])],
        findings=replay_findings(report),
        tree=_tree(report["versions"], None),
        charts={
            version["id"]: _charts(report, version)
            for version in report["versions"]
            if version["id"] in report["curves"]
        },
        passages={name: _passage(passage) for name, passage in report["passages"].items()},
        colour={domain: i % SERIES_COLOURS for i, domain in enumerate(report["domains"])},
        perplexity=lambda loss: f"{math.exp(min(loss, 50)):,.4g}",
        shade=_shade,
        heat=_heat,
    )


def _best(losses: tuple[float | None, ...]) -> float | None:
    return min((loss for loss in losses if loss is not None), default=None)


def _tree(versions: list[dict], parent: str | None) -> list[tuple[dict, list]]:
    """Versions below `parent`, each with the versions below it."""
    return [(version, _tree(versions, version["id"])) for version in versions if version["parent"] == parent]


# ------------------------------------------------------------------------------------------- colours


def _shade(change: float | None) -> str:
    """Background of a cell: blue for a lower loss, orange for a higher one, stronger for larger changes."""
    if change is None or verdict(change) == "unchanged":
        return "transparent"
    return _tint(f"--{verdict(change)}", abs(change) / (abs(change) + 0.5))


def _heat(excess: float | None) -> str:
    """Background of a token: none where the model is no worse than the reference, stronger for larger excess."""
    if excess is None or excess <= 0:
        return "transparent"
    return _tint("--excess", excess / (excess + 1))


def _tint(colour: str, strength: float) -> str:
    return f"color-mix(in srgb, var({colour}) {_STRONGEST * strength:.0f}%, transparent)"


# ------------------------------------------------------------------------------------------- figures


def _charts(report: dict, version: dict) -> list[str]:
    """A version's curves: loss per source, learning rate and, with selection, what was selected."""
    curve, name = report["curves"][version["id"]], version["id"]
    tokens = curve["tokens"]
    colours = {domain: i for i, domain in enumerate(report["domains"])}
    lines = []
    for key, values in curve["source_loss"].items():
        source, replay = key.removeprefix("replay/"), key.startswith("replay/")
        lines.append(Line(f"{source} (replay)" if replay else source, values, colours[source], dashed=replay))
    if len(lines) > 1:
        lines.append(Line("all", curve["loss"], ink=True))
    charts = [
        line_chart(tokens, lines, "training loss (nats per token)", f"{name}: training loss by source"),
        line_chart(
            tokens, [Line("lr", curve["lr"], ink=True)], "learning rate", f"{name}: learning rate", low=0
        ),
    ]
    if version["selection"]:
        split = [
            Line("selected tokens", curve["loss_selected"], 3),
            Line("other tokens", curve["loss_unselected"], 7, dashed=True),
        ]
        fraction = [Line("selected", curve["selected_fraction"], ink=True)]
        charts += [
            line_chart(tokens, split, "training loss (nats per token)", f"{name}: loss by selection"),
            line_chart(
                tokens, fraction, "selected share of tokens", f"{name}: selected share of tokens", 0, 1
            ),
        ]
    return charts


def _passage(passage: dict) -> dict:
    """A passage as tokens with their text made visible and their numbers in words."""
    tokens = []
    for text, loss, reference, selected in zip(
        passage["tokens"], passage["loss"], passage["reference_loss"], passage["selected"], strict=True
    ):
        excess = None if reference is None else loss - reference
        compared = (
            "no reference loss" if excess is None else f"reference {reference:.2f}, excess {signed(excess)}"
        )
        tokens.append(
            {
                "text": visible(text),
                "selected": selected,
                "excess": excess,
                "title": f"loss {loss:.2f}, {compared}, {'selected' if selected else 'not selected'}",
            }
        )
    count = sum(token["selected"] for token in tokens)
    return {"source": passage["source"], "tokens": tokens, "selected": count}


def visible(text: str) -> str:
    """Line ends get a sign, other control characters their Unicode picture; an empty token becomes a dot."""
    pictures = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    return text.translate(pictures | {0x7F: "\u2421", ord("\n"): "\u23ce\n"}) or "\u00b7"

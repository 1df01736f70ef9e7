"""Prints an inspection: tables on a terminal or in a file."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure.pipeline.cli.inspection.schema import Distribution, Inspection, Sample, ScoredDocuments, Source
from perdure.pipeline.data.cleaning.drops import drops_lines
from perdure.pipeline.data.summaries import feature_lines

EXAMPLES_SHOWN = 2
"""Dropped documents printed per step and reason; the page and the artefact have more."""
EXAMPLE_CHARS = 100
SHADES = ((0.5, ""), (1.5, "on color(53)"), (3.0, "on color(89)"), (5.0, "on color(125)"))
"""Backgrounds of tokens by loss in nats: the last one whose bound the loss reaches; below the first, none."""
BARS = " ▁▂▃▄▅▆▇█"


def print_inspection(found: Inspection) -> None:
    """Prints what `perdure.pipeline.cli.inspection.gather` returned."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    console.print(Text.assemble((found["name"], "bold"), f"  {found['out']}"))
    for source in found["sources"]:
        console.print(Text(f"\n{source['name']}", "bold underline"))
        if source["directory"] is None:
            console.print("not prepared yet: run the data stage")
            continue
        counts = source["counts"]
        console.print(
            _table(("step", "documents in", "words in", "dropped", "reason", "words dropped"), _steps(counts))
        )
        for line in drops_lines(source["name"], source["heavy_drops"]):
            console.print(Text(line, "bold"))
        train, heldout = counts["train"], counts["heldout"]
        console.print(
            f"out: {train['documents']:,} documents, {train['tokens']:,} tokens to train on; "
            f"{heldout['documents']:,} documents, {heldout['tokens']:,} tokens held out"
        )
        for line in feature_lines(counts):
            console.print(line)
        if lost := counts.get("without_tokens"):
            console.print(Text(_without_tokens(lost)))
        _print_labels(console, source)
        _print_examples(console, source["examples"])
        for scores in source["scores"]:
            _print_perplexities(console, scores)
        for line in source["parts"]:
            console.print(Text(line))
        if source["sample"]:
            _print_sample(console, source["sample"])
    _print_mixtures(console, found["mixtures"])


def _steps(counts: dict) -> Iterable[tuple[str, ...]]:
    for step in counts["steps"]:
        head = step["step"], f"{step['in']['documents']:,}", f"{step['in']['words']:,}"
        if not step["dropped"]:
            yield (*head, "0", "", "0")
        for reason, entry in step["dropped"].items():
            yield (*head, f"{entry['documents']:,}", reason, f"{entry['words']:,}")
            head = "", "", ""
    out = counts["steps"][-1]["out"]
    yield ("out", f"{out['documents']:,}", f"{out['words']:,}", "", "", "")


def _without_tokens(lost: dict) -> str:
    """A line on the characters that the tokenizer has no tokens for."""
    found = f"without tokens: {lost['characters']:,} of {lost['of']:,} characters, in {lost['documents']:,} documents"
    if example := lost["example"]:
        found += f"; most in {example['id']} ({example['share']:.0%}): {example['text']}"
    return found


def _print_labels(console: Console, source: Source) -> None:
    """Prints topics and languages with their counts."""
    facts = source["topics"] or {}
    if "accuracy" in facts:
        console.print(
            f"topics by a classifier, right on {facts['accuracy']:.1%} of {facts['measured_on']} labelled texts that it "
            f"has not seen (the most frequent topic alone: {facts['majority']:.1%})"
        )
    if subset := source["subset"]:
        taken, available = subset["taken"], subset["available"]
        console.print(
            f"subset: {taken['documents']:,} of {available['documents']:,} training documents, {taken['tokens']:,} of "
            f"{available['tokens']:,} tokens"
        )
    for kind in ("topics", "languages"):
        if labels := source["counts"][kind]:
            words = facts.get("top_words", {}) if kind == "topics" else {}
            columns = (kind[:-1], "documents", "tokens", "held-out documents", "held-out tokens", "words")
            rows = [
                (
                    label,
                    *(
                        f"{parts[split][unit]:,}"
                        for split in ("train", "heldout")
                        for unit in ("documents", "tokens")
                    ),
                    ", ".join(words.get(label, [])),
                )
                for label, parts in labels.items()
            ]
            console.print(_table(columns, rows))


def _print_examples(console: Console, examples: dict[str, list[dict]]) -> None:
    for step, rows in examples.items():
        shown: dict[str, int] = {}
        for row in rows:
            shown[row["reason"]] = shown.get(row["reason"], 0) + 1
            if shown[row["reason"]] <= EXAMPLES_SHOWN:
                line = " ".join(row["text"].split())[:EXAMPLE_CHARS]
                console.print(Text.assemble((f"{step} {row['reason']} ", "dim"), f"{row['id']}: {line}"))


def _print_perplexities(console: Console, scores: ScoredDocuments) -> None:
    if not scores["documents"]:
        console.print(f"no document has a perplexity under {scores['model']}")
        return
    of = f" of {scores['of']:,}" if scores["scored"] < scores["of"] else ""
    console.print(
        f"perplexity under {scores['model']} ({scores['documents']:,}{of} documents), logarithmic axis"
    )
    names = list(scores["quantiles"])
    axis = f"{scores['edges'][0]:,.4g} to {scores['edges'][-1]:,.4g}"
    entries: dict[str, ScoredDocuments | Distribution] = {"all": scores, **scores["topics"]}
    rows = [
        (
            label,
            f"{entry['documents']:,}",
            *(f"{entry['quantiles'][name]:,.4g}" for name in names),
            _bars(entry["histogram"]),
        )
        for label, entry in entries.items()
    ]
    console.print(_table(("topic", "documents", *names, axis), rows))


def _bars(counts: list[int]) -> str:
    return "".join(BARS[-(-count * 8 // max(counts))] for count in counts)


def _print_mixtures(console: Console, mixtures: list[dict]) -> None:
    """Prints what every version takes of each source, and how often it repeats it."""
    if mixtures:
        console.print(Text("\nmixtures", "bold underline"))
    rows = []
    for mixture in mixtures:
        for place in mixture["rows"]:
            times, before = place["repetitions"], place["repetitions_of_ancestors"]
            rows.append(
                (
                    mixture["version"],
                    ("replay of " if place["part"] == "replay" else "") + place["source"],
                    f"{place['share']:.1%}",
                    f"{place['tokens']:,}",
                    "unknown" if place["available"] is None else f"{place['available']:,}",
                    "" if times is None else f"{times:.2f}" + (f" after {before:.2f}" if before else ""),
                )
            )
    if rows:
        console.print(_table(("version", "source", "share", "tokens", "of", "times over"), rows))


def _print_sample(console: Console, sample: Sample) -> None:
    about = ", ".join(label for label in (sample["topic"], sample["language"]) if label)
    shown = sample["losses"] if sample["excess"] is None else sample["excess"]
    coloured = f", darker where {sample['model']}'s loss is higher" if sample["model"] else ""
    if sample["trainee"]:
        coloured = f", darker where {sample['trainee']} loses more than {sample['model']} (excess loss)"
    console.print(Text(f"a document: {sample['id']}{f' ({about})' if about else ''}{coloured}", "dim"))
    text = Text()
    for token, loss in zip(sample["tokens"], shown, strict=True):
        text.append(token, _shade(loss))
    console.print(text)


def _shade(loss: float | None) -> str:
    return next((style for bound, style in reversed(SHADES) if loss is not None and loss >= bound), "")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        words = (
            column in ("step", "reason", "topic", "language", "words", "version", "source")
            or " to " in column
        )
        table.add_column(column, justify="left" if words else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table

"""Console lines of the data stage: tokenizer, topics, sources."""

from perdure.pipeline import recipe
from perdure.pipeline.data.read.repositories import JOINED


def tokenizer_summary(tokenizer: recipe.Tokenizer, facts: dict) -> str:
    """The run's tokenizer: its size, its separator, and how many words it was learnt from."""
    learnt = ""
    if (sample := facts["sample"]) is not None:
        learnt = f", learnt from {sample['words']:,} of {sample['of_words']:,} words (tokenizer.sample_words)"
    size = f"{facts['vocab_size']:,} tokens{_smaller(tokenizer, facts)}"
    return f"tokenizer: {size}, documents end in {facts['eos_token']!r}{learnt}"


def _smaller(tokenizer: recipe.Tokenizer, facts: dict) -> str:
    """The remark that a trained tokenizer is smaller than asked for; empty if it is not."""
    if tokenizer.type != "train" or facts["vocab_size"] == tokenizer.vocab_size:
        return ""
    return f" (vocab_size = {tokenizer.vocab_size:,}: the text has no more pairs to merge)"


def topics_summary(name: str, manifest: dict) -> str:
    """A source's topics with their number of documents, a classifier's accuracy, and the words of clusters."""
    words = manifest.get("top_words", {})
    found = [
        f"{topic} {count:,}" + (f" ({', '.join(words[topic])})" if topic in words else "")
        for topic, count in manifest["topics"].items()
    ]
    right = f", right on {manifest['accuracy']:.1%} of labelled texts" if "accuracy" in manifest else ""
    return f"{name}: {len(found)} topics{right}: " + ", ".join(found)


def _labels(split: dict) -> str:
    """Of conversations, how many of a split's tokens are labels."""
    return f" ({split['labels']:,} of them labels)" if "labels" in split else ""


def _fim(counts: dict) -> str:
    """What was transformed to be filled in the middle; empty if nothing was."""
    if not (fim := counts.get("fim")):
        return ""
    documents, tokens = counts["train"]["documents"], counts["train"]["tokens"]
    of = f"{fim['documents']:,} of {documents:,} training"
    what, aside = f"{of} documents", ""
    if any(step["step"] == "repository" for step in counts["steps"]):
        what, aside = (
            f"{fim['psm'] + fim['spm']:,} files in {of} repositories",
            ", those of repositories aside",
        )
    return (
        f"fill in the middle: {what} ({fim['psm']:,} PSM, {fim['spm']:,} SPM), "
        f"sentinels are {fim['tokens']:,} of {tokens:,} tokens{aside}"
    )


def _prefixes(counts: dict) -> str:
    """Of a source with prefixes, how many documents have one; else empty."""
    found = counts.get("prefix")
    if found is None:
        return ""
    without = f", {found['without']:,} lack a field of it and stay plain" if found["without"] else ""
    return f"{found['documents']:,} documents have the prefix{without}"


def _dates(counts: dict) -> str:
    """Of a source with dates, the oldest and the newest one, and how many documents have none; else empty."""
    found = counts.get("dates")
    if found is None:
        return ""
    undated = sum(found["undated"].values())
    if found["first"] is None:
        return f"dates: none, {undated:,} documents without"
    return f"dates {found['first']} to {found['last']}, {undated:,} documents without"


def feature_lines(counts: dict) -> list[str]:
    """What a source's middles, prefixes and dates came to, a line for each that it has."""
    return [line for line in (_fim(counts), _prefixes(counts), _dates(counts)) if line]


def source_summary(name: str, counts: dict) -> str:
    """A source: documents in, dropped by reason and out; tokens of its splits; what could not be looked for."""
    documents, train, heldout = counts["documents"], counts["train"], counts["heldout"]
    reasons = dict(documents["dropped"])
    joined = reasons.pop(JOINED, 0)
    by_count = sorted(reasons.items(), key=lambda item: -item[1])
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in by_count)
    return (
        (
            f"{name}: {documents['in']:,} documents in, {documents['out']:,} out (dropped: {dropped or 'none'}); "
            f"{train['tokens']:,} tokens to train on{_labels(train)}, {heldout['tokens']:,} held out{_labels(heldout)}"
            + (
                f"; {inside:,} separators stand inside documents"
                if (inside := counts["separators_inside"])
                else ""
            )
            + (f"; {joined:,} files joined others of their repositories" if joined else "")
            + (f"; {unparsable:,} files are no Python" if (unparsable := counts.get("unparsable")) else "")
        )
        + "".join(f"; {line}" for line in feature_lines(counts))
        + "".join(
            f"; of {file['file']}, {file['too_short']:,} of {file['strings']:,} strings were too short to be looked for"
            for step in counts["steps"]
            for file in step.get("evaluation", [])
            if file["too_short"]
        )
    )

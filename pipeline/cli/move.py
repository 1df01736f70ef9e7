"""Commands that move models in and out: Hugging Face directories."""

import argparse
from collections.abc import Callable


def _export(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.models import export

    max_shard_bytes = int(options.max_shard_gb * 1e9)
    export(options.run, options.name, options.step, options.to, max_shard_bytes)


def _import(options: argparse.Namespace) -> None:
    from perdure.pipeline.cli.models import describe

    print(describe(options.model), end="")


VERBS: dict[str, Callable[[argparse.Namespace], None]] = {
    "export": _export,
    "import": _import,
}
"""The commands by verb."""

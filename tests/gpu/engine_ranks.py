"""What tests ask of ranks on a pretended GPU with a stand-in for Transformer Engine: `python engine_ranks.py FUNCTION ARGUMENTS
ANSWER`.

Megatron asks once, when it is imported, whether Transformer Engine is there: so these are processes of their own. A rank's
helper imports this script anew: so nothing heavy is imported outside of functions.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "engine"), str(Path(__file__).parents[1])]


def train(directory: str, steps: int, capability: tuple[int, int] = (9, 0)) -> dict:
    """As `pretended_ranks.train`, on a GPU of a compute capability: what steps came to, and what was called of Transformer
    Engine."""
    from gpu import machine, pretended_ranks
    from transformer_engine.pytorch import CALLS

    machine.CAPABILITY = tuple(capability)
    return {"steps": pretended_ranks.train(directory, True, steps), "calls": CALLS}


def whole(directory: str) -> list[dict]:
    """As `pretended_ranks.whole`: what was called of Transformer Engine."""
    from gpu import pretended_ranks
    from transformer_engine.pytorch import CALLS

    pretended_ranks.whole(directory)
    return CALLS


def main() -> None:
    """Calls the function that the command line names."""
    from gpu.answering import answer

    answer(globals())


if __name__ == "__main__":
    main()

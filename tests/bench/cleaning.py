"""What the cleaning benchmark measures, each in a process of its own: seconds from documents to tokens."""

import json
import sys
import time
from pathlib import Path


def perdure(out: str, recipe: str) -> float:
    """Perdure's data stage."""
    from perdure.pipeline.data.stage import run_data
    from perdure.pipeline.recipe import load_recipe

    begun = time.perf_counter()
    run_data(load_recipe(recipe, out=Path(out)))
    return time.perf_counter() - begun


def datatrove(out: str, corpus: str, tokenizer: str, dedup: bool) -> float:
    """datatrove's own blocks by its own executor: the same deduplication, then its DocumentTokenizer."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup.exact_dedup import ExactDedupFilter, ExactDedupSignature, ExactFindDedups
    from datatrove.pipeline.dedup.minhash import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers.jsonl import JsonlReader
    from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    from perdure.pipeline.data.cleaning.normalise import Words
    from perdure.pipeline.data.cleaning.steps.exact_dedup import EXACT
    from perdure.pipeline.data.cleaning.steps.minhash_dedup import MINHASH, hash_shingle

    def run(name: str, steps: list, tasks: int = 2) -> None:
        LocalPipelineExecutor(
            steps, tasks=tasks, workers=min(tasks, 2), logging_dir=f"{out}/logs/{name}", skip_completed=False
        ).run()

    signature = MinhashDedupSignature(f"{out}/signatures", MINHASH, Words())
    signature._hash_func = hash_shingle  # xxhash no longer takes text, which datatrove gives it
    begun = time.perf_counter()
    if dedup:
        run("sign", [JsonlReader(corpus), ExactDedupSignature(f"{out}/exact", EXACT)])
        run("find", [ExactFindDedups(f"{out}/exact", f"{out}/found", EXACT)], 1)
        first = [JsonlReader(corpus), ExactDedupFilter(f"{out}/found", EXACT), JsonlWriter(f"{out}/unique")]
        run("minhash", [*first, signature])
        run(
            "buckets",
            [MinhashDedupBuckets(f"{out}/signatures", f"{out}/matches", config=MINHASH)],
            MINHASH.num_buckets,
        )
        run("cluster", [MinhashDedupCluster(f"{out}/matches", f"{out}/clusters", MINHASH)], 1)
        last = [JsonlReader(f"{out}/unique"), MinhashDedupFilter(f"{out}/clusters")]
    else:
        last = [JsonlReader(corpus)]
    tokens = DocumentTokenizer(
        f"{out}/tokens", tokenizer_name_or_path=tokenizer, eos_token="<|endoftext|>", shuffle_documents=False
    )
    run("tokens", [*last, tokens])
    return time.perf_counter() - begun


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))

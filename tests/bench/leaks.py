"""Runs in processes of their own for test_leaks.py."""

import json
import os
import re
import sys
import time
from pathlib import Path

from perdure.pipeline.data.leaks import LeakSearch


def search(directory: str, tokenizer: str, grams: str) -> dict:
    """CPU seconds of searching a shard, and the peak of this process's memory, imports included."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    step = LeakSearch(Path(directory), Path(tokenizer), Path(grams), Path(directory))
    begun = time.process_time()
    step.run()
    seconds = time.process_time() - begun
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"seconds": seconds, "bytes": int(peak[1]) * 1024}


if __name__ == "__main__":
    function, arguments, answer = sys.argv[1:]
    Path(answer).write_text(json.dumps(globals()[function](*json.loads(arguments))))

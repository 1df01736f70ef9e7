import os
import random
import re
import signal
import subprocess
import sys

import psutil
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from perdure.pipeline.manifest import VERIFIED

RUN = """
import os, sys
from pathlib import Path
from perdure.pipeline.data.score import score_source
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.recipe import load_recipe
if __name__ == "__main__":
    workers = "data.workers=" + os.environ["WORKERS"]
    found = run_data(load_recipe(sys.argv[1], [workers], out=Path(sys.argv[2])))
    for path in found.values():
        score_source(path, Path(sys.argv[3]), label="ref", context=32, overlap=8, workers=2)
"""


def runs(process: psutil.Process) -> bool:
    """Whether a process still does something; one that nobody has waited for yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(make_recipe, tmp_path, texts):
    near = [text + " but" for text in texts[::5]]
    (tmp_path / "probes.txt").write_text(texts[7])
    clean = [
        {"type": "length", "min_chars": 5},
        {"type": "decontaminate", "files": [str(tmp_path / "probes.txt")]},
        {"type": "gopher_repetition"},
        *({"type": f"{kind}_dedup"} for kind in ("exact", "sentence", "minhash")),
    ]
    recipe = make_recipe(
        {"a": [*texts, *near, *texts[:9], "x"], "b": texts[::-1] * 2},
        tasks=3,
        out=tmp_path / "killed",
        clean=clean,
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=500, **shape)).save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    (tmp_path / "run.py").write_text(RUN)
    arguments = [str(tmp_path / "recipe.yaml"), str(tmp_path / "killed"), str(tmp_path / "model")]
    rng, kills = random.Random(0), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), *arguments],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"WORKERS": str(1 + kills % 3)},
        )
        try:
            process.wait(rng.uniform(1.0, 6.0) if kills < 8 else None)
        except subprocess.TimeoutExpired:
            workers = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            outliving = [worker for worker in psutil.wait_procs(workers, timeout=30)[1] if runs(worker)]
            assert not outliving, "workers outlive the run"
            continue
        break
    assert process.returncode == 0 and kills >= 3
    arguments[1] = str(tmp_path / "undisturbed")
    subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"WORKERS": "2"},
    )
    for part in ("clean", "data"):
        found, expected = (files(tmp_path / out / part) for out in ("killed", "undisturbed"))
        assert found == expected
    assert not any((tmp_path / "killed" / "work").iterdir())


def files(directory):
    """Contents by name; the command line in manifests names the output, and their checksum is over it."""
    checksum = re.compile(rb'"checksum": ".*"')
    return {
        str(path.relative_to(directory)): checksum.sub(
            b"", path.read_bytes().replace(b"undisturbed", b"killed")
        )
        for path in directory.rglob("*")
        if path.is_file() and path.name != VERIFIED
    }

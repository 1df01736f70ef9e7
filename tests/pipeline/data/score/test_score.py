import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny import tiny_llama

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import read_json, write_atomic
from perdure.pipeline.core.hashes import hash_directory
from perdure.pipeline.core.shards import open_shard
from perdure.pipeline.data.score import progress
from perdure.pipeline.data.score import scorer as scorer_module
from perdure.pipeline.data.score.losses import (
    document_windows,
)
from perdure.pipeline.data.score.score import ReferenceModel, score_source
from perdure.pipeline.data.score.scorer import Scorer
from tests.pipeline.data.score.small import VOCAB, plain_losses


@pytest.mark.slow
def test_a_sidecar_is_aligned_and_independent_of_workers(llama, news, tmp_path):
    model, directory = llama
    windows = {"context": 16, "overlap": 5}
    scores = score_source(news, ReferenceModel(directory, "ref", **windows), workers=2)
    before = hash_directory(scores, hidden=False)
    assert (
        score_source(news, ReferenceModel(directory, "ref", **windows), workers=1) == scores
    )  # finished before
    manifest = read_json(scores / "manifest.json")
    assert {key: manifest[key] for key in ("context", "overlap", "mask")} == windows | {"mask": "document"}
    table = pq.read_table(scores / "docs.parquet").to_pylist()
    eos = read_json(news / "manifest.json")["eos_id"]
    for task in (0, 1):
        shard = open_shard(news / f"{task:05d}")
        sidecars = [open_shard(scores / f"{task:05d}.{kind}") for kind in ("ref", "ent")]
        for sidecar in sidecars:
            assert sidecar.values.dtype == np.uint16 and shard.lengths.tolist() == sidecar.lengths.tolist()
        rows = [row for row in table if row["shard"] == task]
        assert [row["sequence"] for row in rows] == list(range(len(shard.lengths)))
        end = 0
        for row, length in zip(rows, shard.lengths.tolist(), strict=True):
            tokens = np.asarray(shard.values[end : end + length], np.int64)
            stored = np.stack([sidecar.values[end : end + length] for sidecar in sidecars]) / 1000
            expected = np.concatenate(
                [
                    plain_losses(model, window.inputs, window.labels)[:, window.skip :]
                    for window in document_windows(tokens, eos, 16, 5)
                ],
                axis=1,
            )
            np.testing.assert_allclose(stored, expected, atol=6e-4)
            assert row["num_tokens"] == length
            assert row["mean_nll"] == pytest.approx(expected[0].mean(), abs=1e-4)
            assert row["mean_entropy"] == pytest.approx(expected[1].mean(), abs=1e-4)
            assert row["perplexity"] == pytest.approx(np.exp(row["mean_nll"]))
            end += length
    copy = tmp_path / "data" / news.name
    shutil.copytree(news, copy, ignore=shutil.ignore_patterns("scores"))
    again = score_source(copy, ReferenceModel(directory, "ref", 16, 5), workers=1)
    assert again.name == scores.name and hash_directory(again, hidden=False) == before


SCORE = """
import os, signal, sys
from pathlib import Path
from perdure.pipeline.data.score import scorer
scorer.BLOCK_TOKENS = {"cpu": 32}
news, out, model = map(Path, sys.argv[1:4])
plain, scored = scorer.Scorer._score, []

def score(self, shard, documents, file):
    plain(self, shard, documents, file)
    scored.append(file.name)
    print(file.name, flush=True)
    if len(scored) == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)

scorer.Scorer._score = score
scorer.Scorer(news, out / "artefact", model, int(sys.argv[4]), (8, 2), "fp32", 1).run(None, 0, 2)
"""


@pytest.mark.slow
def test_a_killed_scorer_goes_on_inside_its_shard_to_the_same_bytes(llama, news, tmp_path):
    (tmp_path / "score.py").write_text(SCORE)
    eos = read_json(news / "manifest.json")["eos_id"]

    def score(out, blocks, status):
        """Names of the blocks that were scored, in order, until it was killed after so many, or whole."""
        arguments = [sys.executable, tmp_path / "score.py", news, tmp_path / out, llama[1], eos, blocks]
        done = subprocess.run(list(map(str, arguments)), stdout=subprocess.PIPE, text=True)
        assert done.returncode == status
        return done.stdout.split()

    every = score("undisturbed", -1, 0)
    assert score("killed", 3, -signal.SIGKILL) == every[:3]
    assert not (tmp_path / "killed" / "artefact").exists()
    assert score("killed", 2, -signal.SIGKILL) == every[3:5], "whole blocks are not scored again"
    assert score("killed", -1, 0) == every[5:] != []
    found, expected = (
        hash_directory(tmp_path / out / "artefact", hidden=False) for out in ("killed", "undisturbed")
    )
    assert found == expected


def test_a_scorer_writes_down_how_much_is_scored_of_what_a_kill_left_too(llama, news, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer_module, "BLOCK_TOKENS", {"cpu": 64})
    monkeypatch.setattr(scorer_module, "TOLD_SECONDS", 0.0)
    told = []

    def write(path, content):
        if path.parent.name == "progress":
            told.append(int(content))
        write_atomic(path, content)

    monkeypatch.setattr(scorer_module, "write_atomic", write)
    total = int(open_shard(news / "00000").lengths.sum())
    eos = read_json(news / "manifest.json")["eos_id"]

    def run():
        told.clear()
        Scorer(news, tmp_path / "artefact", llama[1], eos, (8, 2), "fp32", threads=1).run(None, 0, 2)
        assert told == sorted(told) and told[-1] == total
        assert (tmp_path / "progress" / "00000").read_text() == f"{total}\n"
        return told[0]

    assert run() == 0
    blocks = sorted((tmp_path / "blocks").iterdir())
    lost = sum(np.load(block)["units"].shape[1] for block in blocks[2:4])
    for block in blocks[2:4]:
        os.unlink(block)
    assert run() == total - lost


def test_lines_tell_what_is_scored_whoever_scores(tmp_path, monkeypatch, said):
    monkeypatch.setattr(progress, "PAUSE", 0.01)
    folder = tmp_path / "progress"
    write_atomic(folder / "00001", "500000\n")  # of a run that was killed
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "SHARE", 0.0)

    def wait_for(lines):
        end = time.perf_counter() + 60
        while len(said) < lines:
            assert time.perf_counter() < end
            time.sleep(0.005)

    with progress.telling(folder, "web", 2_000_000):
        clock[0] = 40.0
        write_atomic(folder / "00000", "100000\n")
        wait_for(1)
        clock[0] = 50.0
        write_atomic(folder / "00001", "900000\n")
        wait_for(2)
    assert said == [
        "scoring web: 600k of 2M tokens (30%), 2,500 tokens/s, ETA 9:20",
        "scoring web: 1M of 2M tokens (50%), 40,000 tokens/s, ETA 0:25",
    ]
    assert not [thread for thread in threading.enumerate() if "tell" in thread.name]


def test_scores_copied_from_another_reference_are_refused_naming_both(llama, news, tmp_path):
    tiny_llama(tmp_path / "other", VOCAB, seed=1)
    own = score_source(news, ReferenceModel(llama[1], "reference", 8), workers=1)
    other = score_source(news, ReferenceModel(tmp_path / "other", "reference", 8), workers=1)
    hashes = [read_json(path / "manifest.json")["model_hash"] for path in (own, other)]
    shutil.rmtree(own)
    shutil.copytree(other, own)
    with pytest.raises(PerdureError, match=f"model_hash: '{hashes[0]}' -> '{hashes[1]}'"):
        score_source(news, ReferenceModel(llama[1], "reference", 8), workers=1)


def test_models_that_do_not_fit_are_refused(news, tmp_path):
    with pytest.raises(PerdureError, match="not a Hugging Face model"):
        score_source(news, ReferenceModel(tmp_path, "x", 8), workers=1)
    tiny_llama(tmp_path / "small", 100)
    with pytest.raises(PerdureError, match="vocabulary of 100 is smaller than the tokenizer's"):
        score_source(news, ReferenceModel(tmp_path / "small", "x", 8), workers=1)
    (tmp_path / "small" / "tokenizer.json").write_text("{}")
    hashes = (
        r"its tokenizer \(44136fa3\) is not the data's \("
        + read_json(news / "manifest.json")["tokenizer_hash"][:8]
    )
    with pytest.raises(PerdureError, match=hashes):
        score_source(news, ReferenceModel(tmp_path / "small", "x", 8), workers=1)

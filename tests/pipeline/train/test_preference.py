"""A version that learns from pairs beside retained text and replay: under every layout, killed and resumed, and beside trl."""

import json
import signal

import numpy as np
import pytest
import torch
from chats import chat_tokenizer
from run_recipe import perdure
from support import metrics, start_ranks, stopped_at
from tiny import (
    EOS,
    prepare_version,
    random_data,
    tiny_llama,
    tiny_recipe,
    write_data,
    write_masks,
    write_scores,
)

from perdure.pipeline.core.files import read_json
from perdure.pipeline.core.shards import LAST_LABEL, NO_LABEL, REJECTED, REJECTED_LABEL
from perdure.pipeline.model.layout import layout_of

pytestmark = pytest.mark.slow

CHANGES = {
    "sources__a__reader": {
        "type": "jsonl",
        "path": "unused",
        "chosen_field": "chosen",
        "rejected_field": "rejected",
    },
    "training__document_mask": True,
    "training__checkpoint_interval": 3,
    "versions__v1__tokens": 32 * 8 * 6,
    "versions__v1__objective": {"type": "preference", "reference": "/unused", "retain": {"b": 0.2}},
    "versions__v1__mixture": {
        "sources": {"a": {"weight": 0.7, "overlong": "drop"}, "b": {"weight": 0.3, "packing": "next_fit"}},
        "replay": {"share": 0.2, "sources": {"b": {}}},
        "max_repetition": 100,
    },
}
LAYOUTS = {
    "tp1": {},
    "tp2": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp2": {"pipeline_parallel": 2, "recompute": "full"},
    "dp2": {"data_parallel": 2, "distributed_optimizer": True},
}
TOLD = (
    "loss",
    "preference",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def random_pairs(seed: int, count: int):
    """Pairs of 10 to 30 tokens with their masks and losses of a reference: a prompt, an answer that counts on, one that does
    not."""
    rng = np.random.default_rng(seed)
    documents, masks = [], []
    for _ in range(count):
        prompt = rng.integers(1, 299, rng.integers(1, 6))
        answers = [
            (prompt[-1] + np.arange(rng.integers(2, 8))) % 298 + 1,
            rng.integers(1, 299, rng.integers(2, 8)),
        ]
        halves = [np.concatenate([prompt, answer, [EOS]]) for answer in answers]
        documents.append(np.concatenate(halves).astype(np.uint16))
        kinds = [(NO_LABEL, LAST_LABEL), (REJECTED, REJECTED_LABEL)]
        masks.append(
            np.concatenate(
                [
                    [other] * len(prompt) + [label] * (len(half) - len(prompt))
                    for half, (other, label) in zip(halves, kinds)
                ]
            )
        )
    return documents, masks, [rng.uniform(4, 7, len(document)) for document in documents]


def prepared(out, **parallel):
    recipe = tiny_recipe(out, parallel=parallel, **CHANGES)
    documents, masks, losses = zip(*(random_pairs(task, 60) for task in range(2)), strict=True)
    held, held_masks, _ = random_pairs(9, 12)
    data = write_data(out / "data" / "a", list(documents), held, 300)
    write_masks(data, list(masks), held_masks)
    scores = write_scores(data / "scores" / "test", data, list(losses))
    random_data(out)
    version = prepare_version(recipe)
    inputs = read_json(version / "inputs.json") | {"scores": {"a": str(scores)}}
    (version / "inputs.json").write_text(json.dumps(inputs))
    return version, layout_of(recipe).world_size


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    finished = {}
    for name, parallel in LAYOUTS.items():
        directory, ranks = prepared(tmp_path_factory.mktemp(name), **parallel)
        outcome = start_ranks(directory, ranks)
        assert outcome.returncode == 0, outcome.stderr
        finished[name] = directory
    return finished


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "tp1"])
def test_layouts_agree(runs, layout):
    expected, found = metrics(runs["tp1"]), metrics(runs[layout])
    assert len(found) == len(expected) == 6
    for left, right in zip(expected, found):
        assert (left["stream"], left["selection"], left["pairs"]) == (
            right["stream"],
            right["selection"],
            right["pairs"],
        )
        for name in TOLD:
            assert right[name] == pytest.approx(left[name], abs=1e-4, rel=1e-5), name
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=1e-4)


def test_the_loss_is_that_of_pairs_and_of_what_stands_beside_them(runs):
    """Cross entropies of two kinds stand beside the pairs' loss, by their weights."""
    first = metrics(runs["tp1"])[0]
    assert first["pairs"] > 4
    beside = 0.2 * first["source_loss"]["b"] + first["source_loss"]["replay/b"]
    assert first["loss"] == pytest.approx(first["preference"] + beside, rel=1e-6)
    # Held out are the chosen answers.
    assert read_json(runs["tp1"] / "eval.json")["domains"]["a"]["tokens"] == sum(
        int((mask == 2).sum()) for mask in random_pairs(9, 12)[1]
    )


def test_killed_and_resumed_it_is_the_same_bit_for_bit(runs, tmp_path):
    cut, ranks = prepared(tmp_path, **LAYOUTS["dp2"])
    assert stopped_at(cut, ranks, "trainer:train_step:5", signal.SIGKILL).returncode == -signal.SIGKILL
    outcome = start_ranks(cut, ranks)
    assert outcome.returncode == 0, outcome.stderr
    assert "resume at step 3" in outcome.stdout
    for left, right in zip(metrics(runs["dp2"]), metrics(cut), strict=True):
        left.pop("tokens_per_second"), right.pop("tokens_per_second")
        assert left == right
    hashes = [read_json(version / "version.json")["weights_hash"] for version in (runs["dp2"], cut)]
    assert hashes[0] == hashes[1]


WORDS = "red blue green salt sugar iron paper glass cloud river stone bread".split()
STEPS, BATCH, RATE = 10, 8, 1e-3


def written_pairs(count: int) -> list[dict]:
    """Pairs of strings of 40 to 62 bytes with the separators, so that a sample of 64 holds one."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        prompt = f"{number:03d}?" + " "
        chosen, rejected = (" ".join(rng.choice(WORDS, 4))[:22] for _ in range(2))
        found.append(
            {"id": str(number), "prompt": prompt, "chosen": f"{chosen}!", "rejected": f"{rejected}."}
        )
    return found


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A run of `perdure run` from a Hugging Face model, by DPO against that model, a pair a sample in the order of the file."""
    out = tmp_path_factory.mktemp("ours")
    model = chat_tokenizer(tiny_llama(out / "model", 264, initializer_range=0.2), None)
    (out / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in written_pairs(STEPS * BATCH + 40))
    )
    fields = {name: f"{name}_field" for name in ("prompt", "chosen", "rejected")}
    recipe = {
        "name": "prefer",
        "out": str(out / "run"),
        "sources": {
            "pairs": {
                "reader": {"type": "jsonl", "path": str(out / "pairs.jsonl")}
                | {fields[name]: name for name in fields},
                "clean": [],
                "heldout_fraction": 0.1,
            }
        },
        "data": {"tasks": 1},
        "tokenizer": {"type": "huggingface", "path": str(model)},
        "model": {"type": "huggingface", "path": str(model)},
        "training": {
            "seq_length": 64,
            "micro_batch_size": 2,
            "global_batch_size": BATCH,
            "document_mask": True,
            "precision": "fp32",
            "weight_decay": 0.0,
            "adam_beta2": 0.999,
        },
        "versions": {
            "aligned": {
                "start": {"type": "init"},
                "tokens": 64 * BATCH * STEPS,
                "objective": {"type": "preference", "reference": str(model)},
                "mixture": {"sources": {"pairs": {"order": "given"}}},
                "schedule": {"type": "constant", "max_lr": RATE},
            }
        },
    }
    (out / "recipe.yaml").write_text(json.dumps(recipe))
    perdure("run", str(out / "recipe.yaml"))
    return out


def test_losses_are_those_of_trl(ours, tmp_path):
    """The same pairs, torch's AdamW, and trl's own loss and reference: within 1e-4 over ten steps."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from pyarrow import parquet
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    (data,) = (ours / "run").glob("data/pairs*") if (ours / "run" / "data").is_dir() else ()
    table = parquet.read_table(data / "docs.parquet", columns=["split", "id"]).to_pylist()
    rows = {row["id"]: row for row in written_pairs(STEPS * BATCH + 40)}
    rows = [rows[row["id"]] for row in table if row["split"] == "train"][: STEPS * BATCH]
    theirs = [
        {"prompt": f"<|endoftext|>{row['prompt']}", "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in rows  # a document comes behind a separator
    ]
    model, reference = (AutoModelForCausalLM.from_pretrained(ours / "model") for _ in range(2))
    settings = DPOConfig(
        output_dir=str(tmp_path), beta=0.1, report_to=[], use_cpu=True, bf16=False, max_length=None
    )
    trainer = DPOTrainer(
        model,
        reference,
        settings,
        train_dataset=Dataset.from_list(theirs),
        processing_class=AutoTokenizer.from_pretrained(ours / "model"),
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.999), weight_decay=0.0)
    found = metrics(ours / "run" / "versions" / "aligned")
    assert [line["pairs"] for line in found] == [BATCH] * STEPS
    for step, line in enumerate(found):
        batch = trainer.data_collator([trainer.train_dataset[step * BATCH + place] for place in range(BATCH)])
        loss = trainer.compute_loss(model, batch)
        assert line["loss"] == pytest.approx(loss.item(), abs=1e-4)
        told = trainer._metrics["train"]
        for name in (
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "logps/chosen",
            "logps/rejected",
        ):
            assert line[name] == pytest.approx(told[name][-1], abs=2e-3), name
        if step:  # before it, all margins are 0 but for rounding
            assert line["rewards/accuracies"] == told["rewards/accuracies"][-1]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert found[0]["loss"] == pytest.approx(0.693147, abs=0.03) and found[-1]["loss"] < 0.6

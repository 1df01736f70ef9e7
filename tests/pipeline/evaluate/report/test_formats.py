"""The report on the console: tables, counts of tokens, layouts."""

import math

import pytest

from perdure.pipeline.core.files import read_json, write_json
from perdure.pipeline.evaluate.report.formats import format_layout, loss_table
from perdure.pipeline.evaluate.report.summary import summarize


def test_console_table(report):
    lines = loss_table(report).splitlines()
    assert lines[2].split() == ["version", "from", "prose", "clean", "code"]
    assert lines[4].split() == ["initial", "model", "9.000", "9.000", "9.000"]
    assert lines[7].split() == [
        "update",
        "base",
        "4.625",
        "(+0.125)",
        "4.375",
        "(+0.125)",
        "4.500",
        "(-1.500)",
    ]
    assert max(map(len, lines)) <= 100


def test_bits_per_byte_come_first_where_domains_tokens_hold_unlike_amounts_of_text(recipe, run):
    """Means over domains are of bits per byte: 9 nats of 4 bytes and of 2 are 3.25 and 6.49 bits a byte."""
    data = run(recipe, ["base", "update"])
    for path in recipe.directory.glob("versions/*/eval*.json"):
        found = read_json(path)
        sample = {"heldout_documents": 300, "heldout_tokens": 90_000, "cut_documents": 2}
        found["domains"]["code"] |= {
            "bytes": 60_000,
            "bits_per_byte": found["domains"]["code"]["loss"] / 1.386,
        } | sample
        write_json(path, found)
    report = summarize(recipe, data)
    assert report["unit"] == "bits_per_byte" and report["bytes_per_token"] == {
        "prose": 4,
        "clean": 4,
        "code": 2,
    }
    assert report["heldout"]["code"] == {"documents": 101, "tokens": 30_000, "bytes": 60_000} | sample
    bits = [loss / math.log(2) / size for loss, size in zip(report["loss_matrix"][3], (4, 4, 2))]
    assert report["in_bits_per_byte"]["acc"]["update"] == pytest.approx(-(bits[0] + bits[2]) / 2)
    table = loss_table(report)
    assert table.startswith("Held-out loss, bits per byte") and "Held-out loss, nats per token" in table
    assert table.splitlines()[2].split()[-1] == "mean"
    line = next(line for line in table.splitlines() if line.startswith("update"))
    change = report["in_bits_per_byte"]["change"]["update"]
    assert change == {
        "prose": pytest.approx(0.125 / math.log(2) / 4),
        "clean": pytest.approx(0.125 / math.log(2) / 4),
        "code": pytest.approx(-1.5 / math.log(2) / 2),
    }
    shown = report["bits_per_byte_matrix"][3]
    assert line.split()[2:4] == [f"{shown[0]:.3f}", "(+0.045)"]
    assert line.split()[6:8] == [f"{shown[2]:.3f}", "(-1.082)"]
    assert table.splitlines()[-1] == "  code 101 of 300 documents, 30k of 90k tokens, 2 in pieces"
    assert "  prose 101 documents, 30k tokens" in table


def test_console_table_of_many_domains():
    domains = [f"domain-{i}" for i in range(7)]
    wide = {
        "domains": domains,
        "loss_matrix": [[float(i) for i in range(7)], [2.0 * i for i in range(7)]],
        "versions": [{"id": "base", "parent": None, "change": {f"domain-{i}": float(i) for i in range(7)}}],
        "bits_per_byte_matrix": [[i / 2 for i in range(6)] + [None], [float(i) for i in range(6)] + [None]],
        "in_bits_per_byte": {"change": {"base": {name: 0.5 * i for i, name in enumerate(domains[:6])}}},
        "unit": "nats_per_token",
        "macro": {"domains": domains[:6], "bits_per_byte": [0.9, 1.8]},
        "heldout": {},
    }
    _, first, second, bits, *_, last = loss_table(wide).split("\n\n")
    assert bits.startswith("Held-out loss, bits per byte")
    assert last.splitlines()[3].split() == ["base", "initial", "model", "5.000", "(+2.500)", "-", "1.800"]
    assert first.splitlines()[0].split()[2:] == domains[:5]
    assert second.splitlines()[0].split()[2:] == domains[5:]
    assert second.splitlines()[3].split() == [
        "base",
        "initial",
        "model",
        "10.000",
        "(+5.000)",
        "12.000",
        "(+6.000)",
    ]


def test_layout_in_words():
    parallel = {
        "tensor_parallel": 2,
        "pipeline_parallel": 1,
        "data_parallel": 4,
        "sequence_parallel": True,
        "distributed_optimizer": True,
    }
    assert format_layout(parallel) == "tensor 2, data 4, sequence parallel, distributed optimizer"
    plain = dict.fromkeys(parallel, 1) | {"sequence_parallel": False, "distributed_optimizer": False}
    assert format_layout(plain) == "one rank"

"""What a visit's report says of what was found: tables, what is amiss, what is required, what `perdure check` reads."""

import copy

from perdure.kernels.visit.report import findings, markdown, measured, requirements

OF = {"shape": {"num_layers": 16}, "tokens": 8192, "seq_length": 2048, "flops_per_token": 8e9}
RESULTS = {
    "begun": "2026-05-01T12:00:00+00:00",
    "commit": "abc1234",
    "tiny": False,
    "seconds": 200.0,
    "parts": {
        "facts": {
            "question": "Which device?",
            "ended": "done",
            "seconds": 9.0,
            "rows": [
                {"kind": "versions", "python": "3.12.3", "torch": "2.11.0", "flash-attn": None},
                {"kind": "device", "device": "NVIDIA H200", "capability": "9.0"},
            ],
        },
        "step": {
            "question": "How fast is a step?",
            "ended": "done",
            "seconds": 50.0,
            "rows": [
                {"model": "1B", "parts": "perdure", "k": 1.0, "ms": 180.0, "tokens_per_second": 45_000.0, "mfu": 0.46,
                 "mb": 30_000.0, "loss": 11.8, "bits": "aa", "of": OF},
                {"model": "1B", "parts": "perdure", "k": 0.6, "ms": 170.0, "tokens_per_second": 48_000.0, "mfu": 0.49,
                 "mb": 30_000.0, "loss": 11.8, "bits": "aa", "of": OF},
                {"profile": {"parts": "perdure", "k": 1.0, "busy": 0.97, "ms": 181.0, "kernels": 900,
                             "top": [["gemm | nn", 80.0, 300]]}},
            ],
        },
        "loss": {
            "question": "K1?",
            "ended": "stopped after 60 s",
            "seconds": 60.0,
            "said": ["one", "the last line"],
            "rows": [
                {"kind": "rate", "tflops": 700.0},
                {"head": "8B", "tokens": 8192, "k": 0.6, "method": "scoring, triton", "ms": 15.0, "tflops": 560.0,
                 "floor": 0.8, "mb": 1.0},
                {"head": "8B", "tokens": 8192, "k": 0.6, "method": "triton", "ms": 50.0, "tflops": 500.0, "floor": 0.7,
                 "mb": 1.0},
            ],
        },
        "peers": {
            "question": "Others?",
            "ended": "done",
            "seconds": 5.0,
            "rows": [
                {"head": "8B", "tokens": 8192, "k": 0.6, "method": "liger", "ms": 100.0, "tflops": 300.0, "floor": 0.4,
                 "mb": 2.0},
                {"head": "8B", "tokens": 8192, "k": 0.6, "method": "cce", "failed": "not installed"},
            ],
        },
        "again": {"question": "Same?", "ended": "done", "seconds": 5.0, "rows": [{"bits": "bb", "k": 1.0}]},
        "exact": {
            "question": "Right?",
            "ended": "done",
            "seconds": 5.0,
            "rows": [{"head": "8B", "what": "triton", "nll": 0.5, "exact": False}, {"head": "8B", "exact": True}],
        },
    },
}  # fmt: skip


def test_what_is_amiss_is_told_a_line_each():
    assert findings(RESULTS) == [
        "loss: stopped after 60 s: the last line",
        "exact: head 8B, what triton, nll 0.5",
        "again: two processes found other bits: {'aa'} and {'bb'}",
    ]
    failed = copy.deepcopy(RESULTS)
    failed["parts"] = {
        "exact": {"ended": "done", "rows": [{"what": "triton", "failed": "CompilationError: at 8:1"}]}
    }
    assert findings(failed) == ["exact: what triton, failed CompilationError: at 8:1"]
    fine = copy.deepcopy(RESULTS)
    for part in ("loss", "exact", "again"):
        del fine["parts"][part]
    assert findings(fine) == []


def test_what_is_required_is_met_not_met_or_not_measured():
    assert list(requirements(RESULTS)) == [
        ("K1 on 8B", "550 TFLOP/s", "560: met"),
        ("step at k = 0.6 on 8B", "75% of its floor", "0.7: not met"),
        ("faster than liger on 8B", "x 1", "2: met"),
        ("MFU of 1B", "45%", "0.46: met"),
    ]
    without = copy.deepcopy(RESULTS)
    without["parts"]["step"]["rows"][0]["mfu"] = None
    assert ("MFU of 1B", "45%", "not measured") in list(requirements(without))


def test_the_page_has_date_device_versions_and_every_row():
    lines = markdown(RESULTS).splitlines()
    assert lines[0] == (
        "Measured on NVIDIA H200 on 2026-05-01 at commit abc1234: python 3.12.3, torch 2.11.0."
    )
    assert "| K1 on 8B | 550 TFLOP/s | 560: met |" in lines
    assert "- loss: stopped after 60 s: the last line" in lines
    assert "| model | parts | k | ms | tokens_per_second | mfu | mb | loss |" in lines
    assert "| 1B | perdure | 1 | 180 | 4.5e+04 | 0.46 | 3e+04 | 11.8 |" in lines
    assert (
        "| head | tokens | k | method | failed |" in lines
        and "| 8B | 8192 | 0.6 | cce | not installed |" in lines
    )
    assert "A step of perdure at k = 1.0: 181 ms, 900 kernels, busy 97.0%." in lines
    assert "| gemm \\| nn | 80 | 300 |" in lines
    assert all(f"### {part}" in lines for part in RESULTS["parts"])
    assert "At tiny sizes" in markdown(RESULTS | {"tiny": True}).splitlines()[0]


def test_what_check_reads_is_the_whole_step_alone():
    assert measured(RESULTS) == [
        {"date": "2026-05-01", "device": "NVIDIA H200", "model": "1B", "tokens_per_second": 45_000.0, "mfu": 0.46,
         "peak_bytes": 3e10, "of": OF}
    ]  # fmt: skip
    assert measured(RESULTS | {"tiny": True}) == []

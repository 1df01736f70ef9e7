"""The order of collectives: no rank waits for a call that another one never makes."""

import json

import pytest
from gpu.layouts import REPLICAS, SEQUENCE, SHARDED, STAGES, TENSORS, prepared, selection
from gpu.matching import first_stall
from support import on_rank

ALL = SEQUENCE | STAGES | SHARDED
"""Eight ranks."""


def call(name: str, ranks: list[int], **others) -> dict:
    return {
        "name": name,
        "group": str(ranks),
        "ranks": ranks,
        "place": "here",
        "sizes": [[4, "float32"]],
    } | others


def transfer(name: str, peer: int, batch: int | None = None) -> dict:
    return call(name, [0, 1], peer=peer, batch=batch)


def test_equal_calls_end():
    both = [call("allreduce_", [0, 1]), call("broadcast_", [0, 1], root=0)]
    assert first_stall([both, both]) is None
    assert first_stall([[call("allreduce_", [0])] * 2, []]) is None


def test_a_call_that_one_rank_leaves_out_stalls_the_other():
    both = [call("allreduce_", [0, 1]), call("allreduce_", [0, 1])]
    assert (
        first_stall([both, both[:1]])
        == "rank 0 waits in allreduce_ with ranks [0, 1] at here\nrank 1 has ended"
    )


def test_groups_in_another_order_stall():
    one, other = call("allreduce_", [0, 1], group="a"), call("allreduce_", [0, 1], group="b")
    assert "rank 1 waits" in (first_stall([[one, other], [other, one]]) or "")


@pytest.mark.parametrize(
    "changed",
    [{"name": "broadcast_"}, {"sizes": [[5, "float32"]]}, {"sizes": [[4, "bfloat16"]]}, {"root": 1}],
)
def test_ranks_that_meet_must_agree(changed):
    one = call("allreduce_", [0, 1])
    assert "here" in (first_stall([[one], [one | changed]]) or "")


def test_transfers_meet_their_other_end():
    assert first_stall([[transfer("send", 1)], [transfer("recv_", 0)]]) is None
    assert first_stall([[transfer("send", 1)], [transfer("send", 0)]]) is not None
    assert (
        first_stall([[transfer("send", 1)], [transfer("recv_", 0) | {"sizes": [[5, "float32"]]}]]) is not None
    )


def test_two_ranks_that_both_send_first_need_one_batch():
    for batch, stalls in ((7, False), (None, True)):
        ranks = [[transfer("send", 1, batch), transfer("recv_", 1, batch)] for _ in range(1)]
        ranks.append([transfer("send", 0, batch), transfer("recv_", 0, batch)])
        assert (first_stall(ranks) is not None) == stalls


def recorded(tmp_path, changes: dict, left_out: int | None = None) -> list[list[dict]]:
    """Every rank's calls from the model's making to the end of a step, each on its own on the fake process group."""
    version, ranks = prepared(tmp_path / "run", changes)
    on_rank("record", version, tmp_path, left_out, script="gpu/pretended_ranks.py", ranks=ranks)
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [ALL | selection("global"), STAGES | REPLICAS, TENSORS | SHARDED | selection("dp_microbatch")],
    ids=["all", "stages and replicas", "tensors and replicas"],
)
def test_no_rank_waits_forever(tmp_path, changes):
    calls = recorded(tmp_path, changes)
    assert first_stall(calls) is None
    kinds = {call["name"] for rank in calls for call in rank if len(call["ranks"]) > 1}
    assert "allreduce_" in kinds and ("send" in kinds) == ("parallel__pipeline_parallel" in changes)


@pytest.mark.slow
def test_a_collective_that_one_rank_leaves_out_is_found(tmp_path):
    stall = first_stall(recorded(tmp_path, STAGES | REPLICAS, left_out=3))
    assert stall is not None and "rank 3 waits in" in stall and "pipeline.train.counts.add_replicas" in stall

"""What a profile counts as the GPU's work."""

from contextlib import contextmanager

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent, FunctionEventAvg

from perdure.data_recipes.bench_step import profile


def test_a_profile_counts_kernels_once_and_no_named_spans(monkeypatch):
    """A product's operation, its kernel of 40 us, another of 20 us after a gap, and torch's span of an optimizer's step over
    all."""

    def event(
        number: int, name: str, begun: int, ended: int, device: DeviceType, span: bool = False
    ) -> FunctionEvent:
        return FunctionEvent(
            number, name, 1, begun, ended, device_type=device, use_device="cuda", is_user_annotation=span
        )

    operation = event(1, "aten::mm", 0, 5, DeviceType.CPU)
    operation.append_kernel("gemm", 0, 40)
    events = EventList(
        [
            operation,
            event(2, "gemm", 100, 140, DeviceType.CUDA),
            event(3, "copy", 180, 200, DeviceType.CUDA),
            event(4, "Optimizer.step#AdamW.step", 100, 200, DeviceType.CUDA, span=True),
        ],
        use_device="cuda",
    )

    class Seen:
        @staticmethod
        def events() -> EventList:
            return events

        @staticmethod
        def key_averages() -> list[FunctionEventAvg]:
            return [FunctionEventAvg().add(one) for one in events]

    @contextmanager
    def fake(**_options):
        yield Seen

    monkeypatch.setattr(torch.profiler, "profile", fake)
    found = profile(lambda: None)
    assert found["busy"] == pytest.approx(0.6) and found["kernels"] == 2 and found["ms"] == pytest.approx(0.1)
    assert [row[0] for row in found["top"]] == ["gemm", "copy"]
    assert [row[1] for row in found["top"]] == pytest.approx([0.04, 0.02])

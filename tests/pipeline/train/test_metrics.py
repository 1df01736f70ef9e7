import pytest
import torch

from perdure.pipeline.train.metrics import model_flop_utilisation


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
    ],
)
def test_utilisation_is_of_the_peak_of_this_very_device(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert model_flop_utilisation(1000.0, peak / 1000, 4, "bf16") == pytest.approx(0.25)
    assert model_flop_utilisation(1000.0, peak / 1000, 4, "fp32") is None


def test_utilisation_is_unknown_on_other_devices(monkeypatch):
    assert model_flop_utilisation(1000.0, 1e9, 1, "bf16") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another")
    assert model_flop_utilisation(1000.0, 1e9, 1, "bf16") is None

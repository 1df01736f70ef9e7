"""A sample of combinations leaves no value out, and a soak no combination."""

import soak


def test_a_sample_has_every_value_of_every_axis(monkeypatch):
    monkeypatch.setattr(soak, "SOAK", False)
    found = soak.sampled("ab", (1, 2, 3), [None])
    assert found == [("a", 1, None), ("b", 2, None), ("a", 3, None)]
    assert soak.often(4, 240) == 4


def test_a_soak_has_every_combination(monkeypatch):
    monkeypatch.setattr(soak, "SOAK", True)
    assert soak.sampled("ab", (1, 2)) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert soak.often(4, 240) == 240

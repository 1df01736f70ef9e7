"""The tables of a sweep on the console."""

from perdure.pipeline.run.sweep.table import format_setting, sweep_table


def test_the_table(swept):
    lines = sweep_table(swept).splitlines()
    assert lines[1].startswith(
        "replay: 3 of 5 runs whole. Held-out loss of update, nats per token, mean ± standard"
    )
    head = ["setting", "runs", "prose", "code", "tokens", "of", "lineage", "tokens/s", "time"]
    assert lines[3].split() == head
    prose, code = ["4.750", "±", "0.354", "(+0.750)"], ["5.000", "±", "0.000", "(-1.000)"]
    cost = ["1k", "3k", "150", "1:30"]
    assert lines[5].split() == ["share", "0", "2", "of", "2", *prose, *code, *cost]
    assert lines[6].split()[:7] == ["share", "0.25", "1", "of", "2", "4.250", "(+0.250)"]
    assert lines[7].split() == ["share", "0.5", "0", "of", "1", *"------"]
    assert lines[9] == "The same in bits per byte"
    prose, code = ["1.188", "±", "0.088", "(+0.188)"], ["1.250", "±", "0.000", "(-0.250)"]
    assert lines[13].split() == ["share", "0", "2", "of", "2", *prose, *code]
    assert len(lines) == 16  # no probes, no stability gap


def test_languages_or_tokenizers_are_compared_in_bits_per_byte_first(seeded):
    losses, same, _, gaps = sweep_table(seeded | {"unit": "bits_per_byte"}).strip().split("\n\n")[1::2]
    titles = sweep_table(seeded | {"unit": "bits_per_byte"}).strip().split("\n\n")[::2]
    assert "Held-out loss, bits per byte, mean" in titles[0] and titles[1] == "The same in nats per token"
    assert "while training, bits per byte, and" in titles[3]
    assert losses.splitlines()[3].split()[4:8] == ["1.219", "±", "0.044", "(+0.219)"]
    assert same.splitlines()[3].split()[4:8] == ["4.875", "±", "0.177", "(+0.875)"]
    assert gaps.splitlines()[3].endswith("0.125 ± 0.000        never")


def test_seeds_alone_compare_all_versions(seeded):
    losses, _, probes, gaps = sweep_table(seeded).strip().split("\n\n")[1::2]
    assert [line.split()[0] for line in losses.splitlines()[2:]] == ["base", "replay_0", "replay_5"]
    assert losses.splitlines()[3].split()[1:8] == ["2", "of", "2", "4.875", "±", "0.177", "(+0.875)"]
    assert probes.splitlines()[0].split() == [
        *["version", "runs", "invariant", "new", "FUAR", "FUAR", "to", "initial"]
    ]
    assert probes.splitlines()[2].split() == ["base", "2", "of", "2", *"----"]
    assert probes.splitlines()[4].endswith("0.500 (1 of 2)          no gain")
    assert gaps.splitlines()[0].split() == [
        "version",
        "runs",
        "mean",
        "back",
        "after",
        "prose",
        "back",
        "after",
    ]
    assert gaps.splitlines()[2].split() == ["base", "2", "of", "2", *"----"]
    assert gaps.splitlines()[3].endswith("0.500 ± 0.000        never")
    assert gaps.splitlines()[4].endswith("0.500 ± 0.000  2k (1 of 2)")


def test_settings_in_words():
    setting = {"variant": "plain", "a.b.max_lr": "3e-3", "a.schedule": {"type": "constant", "max_lr": 0.1}}
    assert format_setting(setting) == "plain, max_lr 3e-3, schedule {max_lr: 0.1, type: constant}"
    assert format_setting({}) == "the recipe's own"

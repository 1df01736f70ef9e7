"""The command line as a user meets it: verbs, exit statuses, and errors in one readable message."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.pipeline.cli import entry
from perdure.pipeline.core.console import print_json
from perdure.pipeline.recipe import json_schema, load_recipe

TEMPLATE = str(Path(__file__).parents[3] / "data_recipes" / "template.yaml")
BAD = ["--set", "versions.update.start.parent=bose"]


def test_help_names_every_verb_and_costs_no_heavy_import():
    code = (
        "import sys; from perdure.pipeline.cli import entry\n"
        "try: entry.main(['--help'])\n"
        "except SystemExit: print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in entry.VERBS)
    assert not any(f"'{module}'" in done.stdout for module in ("torch", "numpy", "pydantic", "yaml", "rich"))


def test_check_imports_nothing_heavy():
    code = "import sys; from perdure.pipeline.cli import entry; "
    code += f"entry.main(['check', {TEMPLATE!r}]); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "'numpy'" in done.stdout
    assert not any(
        f"'{module}'" in done.stdout for module in ("torch", "transformers", "datatrove", "megatron")
    )


def test_the_console_script_is_installed():
    done = subprocess.run(
        [Path(sys.executable).parent / "perdure", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "perdure")


def test_check_shows_what_would_happen(capsys):
    assert entry.main(["check", TEMPLATE]) == 0
    shown = capsys.readouterr().out
    for part in (
        "Sources",
        "prose",
        "~",
        "Version update: update of base",
        "replay 6.2% of what is read, 10.0% of what is trained on",
        "easy_to_hard by reference",
    ):
        assert part in shown
    for part in (
        "98 steps, 1,568 samples, a budget of 401,408 tokens",
        "step 0",
        "█",
        "Memory of the fullest rank",
        "vocabulary",
    ):
        assert part in shown
    assert "\x1b" not in shown


def test_check_shows_each_rank(capsys):
    assert (
        entry.main(["check", TEMPLATE, "--set", "parallel={tensor_parallel: 2, pipeline_parallel: 2}"]) == 0
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    begin = rows.index(["rank", "tensor", "pipeline", "data"])
    assert rows[begin + 1 : begin + 5] == [
        ["0", "0", "0", "0"],
        ["1", "1", "0", "0"],
        ["2", "0", "1", "0"],
        ["3", "1", "1", "0"],
    ]


def test_check_as_json(capsys):
    assert entry.main(["check", TEMPLATE, "--json", "--out", "elsewhere"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["problems"] == []
    assert data["out"] == "elsewhere"
    assert data["total"]["steps"] == 221


def test_problems_as_json(capsys):
    assert entry.main(["check", TEMPLATE, "--json", *BAD]) == 2
    out, err = capsys.readouterr()
    (problem,) = json.loads(out)["problems"]
    assert problem["path"] == "versions.update.start.parent"
    assert problem["value"] == "bose"
    assert "1 problem" in err


@pytest.mark.parametrize("verb", [["run"], ["check"], ["data"], ["train", "--version", "base"]])
def test_a_bad_recipe_never_starts(verb, capsys, tmp_path):
    assert entry.main([verb[0], TEMPLATE, *verb[1:], "--out", str(tmp_path / "out"), *BAD]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        f"error: {TEMPLATE}: 1 problem\n  versions.update.start.parent = 'bose': no such earlier version"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["--nodes", "1"]])
def test_a_sites_mistakes_are_told_by_check(capsys, tmp_path, more):
    site = tmp_path / "site.yaml"
    site.write_text("slurm: {partitoin: big}\n")
    assert entry.main(["check", TEMPLATE, "--out", str(tmp_path / "out"), "--site", str(site), *more]) == 2
    assert (
        "cluster.slurm.partitoin = 'big': unknown field; did you mean `partition`?" in capsys.readouterr().err
    )


@pytest.mark.parametrize("verb", ["eval", "report", "data inspect", "log"])
def test_names_are_checked_where_sources_may_be_gone(verb, capsys, tmp_path):
    command = [*verb.split(), TEMPLATE, "--out", str(tmp_path), *BAD, "--set"]
    assert entry.main([*command, "versions.update.mixture.sources={cod: {}, prose/x: {}}"]) == 2
    error = capsys.readouterr().err
    assert "versions.update.start.parent = 'bose': no such earlier version" in error
    assert "versions.update.mixture.sources.cod = 'cod': no such source; did you mean `code`?" in error
    assert "2 problems" in error and not any(tmp_path.iterdir())


def test_nothing_is_measured_before_a_version_is_finished(capsys, tmp_path):
    out = tmp_path / "out"
    assert entry.main(["eval", TEMPLATE, "--out", str(out)]) == 1
    expected = f"error: {out}: no version is finished yet; `perdure run {TEMPLATE}` makes them\n"
    assert capsys.readouterr() == ("", expected)
    assert not out.exists()  # no data either


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_an_unknown_version_is_refused_with_what_is_near(verb, capsys):
    assert entry.main([verb, TEMPLATE, "--version", "updat"]) == 2
    assert "--version = 'updat': no such version; did you mean `update`?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["check"], ["train", TEMPLATE], ["recipe"]])
def test_a_bad_command_line_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(arguments)
    assert stop.value.code == 2
    assert "usage: perdure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", TEMPLATE, "--nodes", "two"], "two: should be a whole number, at least 1"),
        (
            ["launch", TEMPLATE, "--to", "slurm", "--gpus-per-node=-1"],
            "-1: should be a whole number, at least 0",
        ),
        (["export", "a", "b", "--to", "c", "--max-shard-gb", "nan"], "nan: should be a number above 0"),
        (["export", "a", "b", "--to", "c", "--max-shard-gb", "0"], "0: should be a number above 0"),
    ],
)
def test_numbers_that_cannot_be(arguments, said, capsys):
    with pytest.raises(SystemExit):
        entry.main(arguments)
    assert said in capsys.readouterr().err


def test_recipe_new_writes_a_valid_commented_recipe_and_never_overwrites(tmp_path, capsys):
    path = tmp_path / "sub" / "my.yaml"
    assert entry.main(["recipe", "new", str(path)]) == 0
    assert load_recipe(path).name == "my-run"
    assert path.read_text().count("#") > 50
    path.write_text("mine")
    assert entry.main(["recipe", "new", str(path)]) == 1
    assert path.read_text() == "mine"
    assert capsys.readouterr().err == f"error: {path} exists already; choose another name or delete it\n"


def test_recipe_new_without_a_file_prints(capsys):
    assert entry.main(["recipe", "new"]) == 0
    assert capsys.readouterr().out == Path(TEMPLATE).read_text()


@pytest.mark.parametrize(("said", "size"), [([], 5 * 10**9), (["--max-shard-gb", "0.25"], 250_000_000)])
def test_files_of_an_export_are_bounded_in_units_of_a_thousand(monkeypatch, said, size):
    """As Hugging Face counts them, and as the help says."""
    told = []
    monkeypatch.setattr("perdure.pipeline.cli.models.export", lambda *arguments: told.append(arguments))
    assert entry.main(["export", "run", "v1", "--step", "7", "--to", "model", *said]) == 0
    assert told[0][:5] == (Path("run"), "v1", 7, Path("model"), size)


def test_recipe_schema(tmp_path, capsys):
    assert entry.main(["recipe", "schema", str(tmp_path / "schema.json")]) == 0
    assert (tmp_path / "schema.json").read_text() == json_schema() + "\n"
    capsys.readouterr()
    assert entry.main(["recipe", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"


def test_a_place_that_cannot_be_written_is_one_line(capsys):
    assert entry.main(["recipe", "new", "/dev/null/x.yaml"]) == 1
    assert capsys.readouterr().err == "error: /dev/null/x.yaml: cannot be written (File exists)\n"


def test_every_field_of_the_template_that_is_commented_out_shows_its_default(tmp_path):
    """Uncommenting all defaults must change nothing."""
    lines = []
    for line in Path(TEMPLATE).read_text().splitlines():
        stripped = line.lstrip()
        words = stripped.removeprefix("# ").split()
        if stripped.startswith("# ") and words and words[0] in DEFAULTS:
            indent = line[: len(line) - len(stripped)]
            line = indent + stripped.removeprefix("# ")
        lines.append(line)
    text = "\n".join(lines)
    # Options of sections that are commented out as a whole carry their own `#` before their indentation.
    for section in ("data", "parallel", "kernels", "evaluation"):
        head, _, rest = text.partition(f"# {section}:")
        body = rest.split("\n\n")[0]
        text = head + f"{section}:" + body.replace("\n#   ", "\n  ") + rest[len(body) :]
    (tmp_path / "all.yaml").write_text(text)
    assert text.count("#") < Path(TEMPLATE).read_text().count("#") - 25
    assert load_recipe(tmp_path / "all.yaml") == load_recipe(TEMPLATE)


DEFAULTS = {
    f"{name}:"
    for name in (
        "seed clean topics subset heldout_fraction tie_embeddings rope_theta norm_epsilon init_std "
        "precision document_mask loss_implementation z_loss adam_beta1 adam_beta2 adam_eps weight_decay clip_grad "
        "log_interval weight max_repetition warmup cooldown constant_until score buckets cooldown_shape k scope"
    ).split()
}


def test_unexpected_exceptions_are_one_line_unless_debugging(monkeypatch, capsys):
    def broken(options):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setitem(entry.VERBS, "check", broken)
    assert entry.main(["check", TEMPLATE]) == 1
    assert (
        capsys.readouterr().err
        == "error: ZeroDivisionError: by zero; run again with --debug for the traceback\n"
    )
    with pytest.raises(ZeroDivisionError):
        entry.main(["check", TEMPLATE, "--debug"])


def test_an_interrupt_is_status_130(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(entry.VERBS, "check", interrupted)
    assert entry.main(["check", TEMPLATE]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -P -m perdure.pipeline.cli check {TEMPLATE} --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_numbers_that_json_has_none_for_are_null(capsys):
    print_json({"max_repetition": math.inf, "rows": [(math.nan, 1.5)]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "max_repetition": None,
        "rows": [[None, 1.5]],
    }

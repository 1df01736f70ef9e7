"""Tables of measured documents stay those that their evaluation was made with."""

import numpy as np
import pyarrow as pa
import pytest
from tiny import random_documents, write_data

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.core.files import write_json
from perdure.pipeline.core.hashes import hash_file
from perdure.pipeline.evaluate.documents import heldout, require_tables, table_name, write_tables


@pytest.fixture
def evaluation(tmp_path):
    """An evaluation with its table, and a neighbour's table."""
    path = tmp_path / "eval_initial.json"
    tables = {}
    for file in (path.name, "eval.json"):
        name = table_name(file, "documents")
        write_tables(tmp_path / name, [pa.table({"loss": [float(len(file))]})])
        tables[name] = hash_file(tmp_path / name)
    name = table_name(path.name, "documents")
    write_json(path, {"domains": {}, "tables": {name: tables[name]}})
    return path


def test_whole_tables_pass_and_absent_evaluations_too(evaluation, tmp_path):
    require_tables(evaluation)
    require_tables(tmp_path / "eval_absent.json")
    write_json(tmp_path / "eval_old.json", {"domains": {}})  # from before hashes were recorded
    require_tables(tmp_path / "eval_old.json")


@pytest.mark.parametrize("damage", ["swapped", "missing", "truncated"])
def test_another_table_is_named_with_what_to_delete(evaluation, damage):
    table = evaluation.with_name("eval_initial_documents.parquet")
    if damage == "swapped":
        table.write_bytes(evaluation.with_name("eval_documents.parquet").read_bytes())
    elif damage == "missing":
        table.unlink()
    else:
        table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(PerdureError, match=r"eval_initial_documents\.parquet: missing or damaged; .*delete"):
        require_tables(evaluation)


def test_bytes_of_a_piece_are_its_share_of_the_text(tmp_path):
    """A document of 100 tokens and a separator has 404 bytes: what is measured of the 100, of the 404; a separator has none."""
    documents = [np.append(np.full(100, 1 + number), 0).astype(np.uint16) for number in range(40)]
    data = write_data(tmp_path / "data", [random_documents(0, 3, 100)], documents, 100)
    held, ended = heldout(data, "data", 600), 0
    for row, (tokens, size) in enumerate(
        zip(held.documents["tokens"].to_pylist(), held.documents["bytes"].to_pylist())
    ):
        own = held.rows == row
        assert tokens == (held.stops - held.begins)[own].sum() < 101
        ends = int(held.stops[own].max() == 101)
        assert size == round(404 * (tokens - ends) / 100)
        ended += ends
    assert 0 < ended < len(held.documents) and held.all_tokens == 40 * 101
    assert set(heldout(data, "data", 40 * 101).documents["bytes"].to_pylist()) == {404}  # all of it


@pytest.mark.parametrize("max_tokens", [10**6, 400])
def test_some_of_the_documents_keep_what_is_measured_of_them(tmp_path, max_tokens):
    """All of them, or pieces of a sample; the parts add up to the whole."""
    data = write_data(tmp_path / "data", [random_documents(0, 3, 100)], random_documents(4, 40, 100), 100)
    held = heldout(data, "data", max_tokens)
    kept = np.arange(len(held.documents)) % 3 == 0
    parts = [held.only(mask) for mask in (kept, ~kept)]
    assert sum(len(part.documents) for part in parts) == len(held.documents) > 3
    for part, mask in zip(parts, (kept, ~kept), strict=True):
        assert part.documents["number"].to_pylist() == held.documents["number"].to_numpy()[mask].tolist()
        measured = np.bincount(part.rows, part.stops - part.begins, len(part.documents))
        assert measured.tolist() == part.documents["tokens"].to_pylist()
        assert (part.all_documents, part.all_tokens) == (held.all_documents, held.all_tokens)
    assert sum(len(part.rows) for part in parts) == len(held.rows)

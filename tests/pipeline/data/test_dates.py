"""Dates of documents through the data stage: a column, what is counted, and what is no date."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.stage import run_data
from perdure.pipeline.data.summaries import source_summary
from tests.pipeline.data.made import counts
from tests.pipeline.data.texts import random_text, write_jsonl

DATES = ["2023", "2024-02", "2024-05-17", "2024-05-17T23:30:00-05:00", None, " "]
WRITTEN = ["2023", "2024-02", "2024-05-17", "2024-05-18", None, None]


def rows(number=40):
    return [
        {"id": f"d{n}", "text": random_text(n), "metadata": {"when": DATES[n % len(DATES)]}}
        for n in range(number)
    ]


def test_dates_stand_beside_documents_as_precise_as_they_were_written(make_recipe, tmp_path):
    path = write_jsonl(tmp_path / "in" / "news.jsonl", rows())
    reader = {"type": "jsonl", "path": str(path)}
    plain = run_data(make_recipe({"news": reader}))["news"]
    dated = run_data(make_recipe({"news": reader}, date_field="when"))["news"]
    table = pq.read_table(dated / "docs.parquet").to_pylist()
    assert {row["id"]: row["date"] for row in table} == {
        f"d{n}": WRITTEN[n % len(DATES)] for n in range(len(table))
    }
    told = counts(dated)["dates"]
    assert (told["first"], told["last"]) == ("2023", "2024-05-18")
    undated = sum(row["date"] is None for row in table)
    assert f"; dates 2023 to 2024-05-18, {undated} documents without" in source_summary("news", counts(dated))
    for split in ("train", "heldout"):
        mine = [row for row in table if row["split"] == split]
        assert told["undated"][split] == sum(row["date"] is None for row in mine)
    for date, splits in told["by_date"].items():
        mine = [row for row in table if row["date"] == date]
        assert sum(split["documents"] for split in splits.values()) == len(mine)
        assert sum(split["tokens"] for split in splits.values()) == sum(row["num_tokens"] for row in mine)
    # Without the field there is nothing new, and tokens do not depend on it.
    assert "dates" not in counts(plain) and plain != dated
    assert "date" not in pq.read_schema(plain / "docs.parquet").names
    for file in plain.glob("*.bin"):
        assert np.array_equal(np.fromfile(file, np.uint8), np.fromfile(dated / file.name, np.uint8))


def test_text_that_is_no_date_stops_the_stage_and_is_named(make_recipe, tmp_path):
    bad = [*rows(), {"id": "odd", "text": random_text(99), "metadata": {"when": "last May"}}]
    path = write_jsonl(tmp_path / "in" / "news.jsonl", bad)
    recipe = make_recipe({"news": {"type": "jsonl", "path": str(path)}}, date_field="when")
    with pytest.raises(PerdureError, match="document odd: when = 'last May' is no date"):
        run_data(recipe)
    left_out = {"type": "jsonl", "path": str(path), "where": {"when": {"at_least": "1000"}}}
    told = counts(run_data(make_recipe({"news": left_out}, date_field="when"))["news"])
    assert told["documents"]["dropped"]["where_unreadable"] == 1 + 6  # and blanks
    assert told["dates"]["undated"] == {"train": 0, "heldout": 0}

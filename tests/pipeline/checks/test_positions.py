import json

import pytest
from tiny import tiny_recipe

from perdure.pipeline.checks.scoring import positions
from perdure.pipeline.model.shape import max_positions


def model(directory, **config):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    return directory


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
    ],
)
def test_positions_that_a_config_states(tmp_path, config, expected):
    assert max_positions(model(tmp_path / "m", **config)) == expected


def test_no_model_scores_or_trains_beyond_its_positions(tmp_path):
    short, long = (model(tmp_path / str(size), max_position_embeddings=size) for size in (16, 64))

    def found(**changes):
        return {problem.path: problem.remedy for problem in positions(tiny_recipe(tmp_path, **changes))}

    assert found() == found(scoring__context=999) == {}
    reference = {"versions__v1__selection": {"reference": str(short)}}
    assert found(**reference) == {
        "scoring.context": f"exceeds max_position_embeddings (16) of {short}; lower it"
    }
    assert found(**reference, scoring__context=16) == {}
    ranked = {"versions__v1__mixture__perplexity_model": str(long)}
    assert found(**ranked) == {} != found(**ranked, scoring__context=65)
    assert "scoring.context" in found(versions__v1__selection={"reference": "v0"}, scoring__context=33)
    start = {"type": "huggingface", "path": str(short)}
    assert "exceeds max_position_embeddings (16)" in found(model=start)["training.seq_length"]
    assert found(model=start | {"path": str(long)}) == {}
    assert found(model=start | {"path": str(tmp_path / "missing")}) == {}

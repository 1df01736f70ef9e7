"""Layouts: groups of ranks, micro-batches, what must divide evenly, and layouts for another number of ranks."""

from itertools import product

import pytest
from tiny import tiny_recipe

from perdure.pipeline.model.layout import Layout, layout_of, with_layout
from perdure.pipeline.model.shape import Shape

SHAPE = Shape(6, 16, 24, 8, 4, 4, False, 1e4, 1e-5)


def test_every_rank_has_coordinates_of_its_own_and_tensor_parallel_ranks_are_neighbours():
    layout = Layout(tensor=2, pipeline=3, data=4)
    places = [layout.coordinates(rank) for rank in range(layout.world_size)]
    assert layout.world_size == 24 and layout.replica_size == 6
    assert sorted(places) == sorted(product(range(2), range(3), range(4)))
    assert places[0]._replace(tensor=1) == places[1]
    assert places[0]._replace(data=1) == places[2]
    assert places[0]._replace(pipeline=1) == places[8]


@pytest.mark.parametrize("data", [1, 2, 3, 6])
def test_micro_batches_are_the_same_runs_of_samples_on_any_number_of_replicas(data, tmp_path):
    recipe = tiny_recipe(
        tmp_path,
        training__global_batch_size=12,
        training__micro_batch_size=2,
        parallel__data_parallel=data,
    )
    layout, training = layout_of(recipe), recipe.training
    assert layout.micro_batches(training) * data == 6
    starts = [
        layout.first_sample(number, replica, training.micro_batch_size)
        for number in range(layout.micro_batches(training))
        for replica in range(data)
    ]
    assert starts == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("tensor", "undivided"),
    [
        (1, {}),
        (4, {}),
        (8, {"num_query_groups": 4}),
        (3, {"num_attention_heads": 8, "num_query_groups": 4}),
        (16, {"num_attention_heads": 8, "num_query_groups": 4, "ffn_hidden_size": 24}),
    ],
)
def test_sizes_that_tensor_parallelism_does_not_divide(tensor, undivided):
    assert Layout(tensor=tensor).undivided(SHAPE) == undivided


def test_the_sequence_is_shared_under_sequence_parallelism_alone():
    assert Layout(tensor=4).sequence == 1
    assert Layout(tensor=4, sequence_parallel=True).sequence == 4


def test_replicas_fill_what_there_is_or_nothing_does():
    assert Layout(2, 2, 1).filling(16) == Layout(2, 2, 4)
    assert Layout(2, 2, 7).filling(4) == Layout(2, 2, 1)
    assert Layout(2, 3, 1).filling(16) is None


@pytest.mark.parametrize(
    ("sizes", "ranks", "found"),
    [
        ((2, 1, 2), 8, (2, 1, 2)),
        ((4, 2, 16), 8, (4, 2, 1)),
        ((4, 4, 2), 8, (4, 2, 1)),
        ((2, 2, 6), 16, (2, 2, 3)),
        ((8, 6, 1), 4, (4, 1, 1)),
        ((4, 3, 8), 1, (1, 1, 1)),
    ],
)
def test_a_layout_that_fits_fewer_ranks(sizes, ranks, found):
    layout = Layout(*sizes, sequence_parallel=True).within(ranks)
    assert layout == Layout(*found, sequence_parallel=found[0] > 1)
    assert layout.world_size <= ranks


def test_a_recipe_under_another_layout_says_so_and_keeps_the_rest(tmp_path):
    recipe = tiny_recipe(tmp_path, parallel__distributed_optimizer=True)
    other = Layout(2, 1, 4, sequence_parallel=True)
    found = with_layout(recipe, other)
    assert layout_of(found) == other
    assert found.parallel.distributed_optimizer
    assert layout_of(recipe).world_size == 1

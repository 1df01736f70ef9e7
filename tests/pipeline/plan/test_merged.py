"""What is told of a merge whose shares were fitted."""

from perdure.pipeline.plan.merged import fitted_shares, fitted_words


def candidate(share, *by_layers, old, new):
    return {
        "share": share,
        "parent_share": list(by_layers),
        "old": old,
        "new": new,
        "objective": (old + new) / 2,
    }


RECORD = {
    "parents": [{"id": "base", "share": [0.4, 0.0]}, {"id": "update", "share": [0.6, 1.0]}],
    "search": {
        "share": 0.2,
        "parent_share": [0.4, 0.0],
        "evaluations": 3,
        "weight": 0.5,
        "old": ["a"],
        "new": ["b"],
        "candidates": [
            candidate(0.0, 0.0, 0.0, old=4.0, new=2.0),
            candidate(0.2, 0.2, 0.2, old=3.5, new=2.25),
            candidate(0.2, 0.4, 0.0, old=3.25, new=2.25),
        ],
        "losses": {"tuned": {"a": 3.25, "b": 2.25}, "reported": {"a": 3.5, "b": 2.125}},
    },
}


def test_a_search_is_told_against_the_second_version_alone():
    found = fitted_shares(RECORD)
    assert found["before"] == {"old": 4.0, "new": 2.0, "weighted": 3.0}
    assert found["after"] == {"old": 3.25, "new": 2.25, "weighted": 2.75}
    assert (found["reported"], found["versions"]) == ({"a": 3.5, "b": 2.125}, ["base", "update"])
    assert fitted_words(found) == (
        "shares of base fitted: 0.4/0, of 3 candidates; held-out loss (nats per token) on the half of the documents that "
        "decided, update alone -> fitted: old 4.0000 -> 3.2500, new 2.0000 -> 2.2500, weighted 3.0000 -> 2.7500 (weight of "
        "the new 0.5); on the other half: a 3.5000, b 2.1250"
    )


def test_one_share_for_all_layers_and_versions_without_a_search():
    search = RECORD["search"] | {"parent_share": [], "share": 0.3}
    search["candidates"] = [candidate(0.0, old=4.0, new=2.0), candidate(0.3, old=3.0, new=2.5)]
    assert fitted_words(fitted_shares(RECORD | {"search": search})).startswith(
        "shares of base fitted: 0.3, of 3"
    )
    assert fitted_shares(None) is fitted_shares({"parents": []}) is None

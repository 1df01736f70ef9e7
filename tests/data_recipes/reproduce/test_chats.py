"""What is said of chats.yaml's versions, from reports made by hand; and the questions behind its conversations."""

import pytest

from perdure.data_recipes.reproduce import chats, own_answers


def made_up(answers: dict[str, float]) -> dict:
    return {
        "domains": ["german", "english", "chats"],
        "versions": [{"id": name, "status": "finished"} for name in chats.VERSIONS],
        "loss_matrix": [[3.0, 2.0, 1.0], *([2.5, 2.1, answers[name]] for name in chats.VERSIONS)],
    }


def test_claims_hold_by_the_rise_over_the_initial_model():
    kept = made_up({"plain": 1.5, "chat_replay": 1.1})
    lost = made_up({"plain": 1.5, "chat_replay": 1.3})
    assert [chats.rise(kept, name) for name in chats.VERSIONS] == pytest.approx([0.5, 0.1])
    rows = chats.claim_rows([kept, lost])
    assert [row[-1] for row in rows] == ["reproduced", "in 1 of 2 seeds", "reproduced"]
    assert rows[0][2] == "`plain` +0.500 (0.000)"


def test_the_table_begins_with_the_initial_model():
    rows = chats.loss_table([made_up(dict.fromkeys(chats.VERSIONS, 1.5))]).splitlines()
    assert rows[2] == "| before | 3.000 | 2.000 | 1.000 |"


def test_questions_are_many_different_and_those_of_the_seed():
    found = own_answers.questions(1)
    assert len(found) > 1500 and len(set(found)) == len(found)
    assert found == own_answers.questions(1) != own_answers.questions(2)
    assert "What is the capital of Iceland?" in found

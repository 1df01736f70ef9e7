"""Words as features: whole ones with their marks, pairs of characters where no blanks are written, all others as in version
0.1."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import LANGUAGES

from perdure.pipeline import recipe
from perdure.pipeline.core.files import write_json
from perdure.pipeline.data import identity
from perdure.pipeline.data.cleaning.languages import has_other_words
from perdure.pipeline.data.cleaning.normalise import WORD
from perdure.pipeline.data.features import letters, uni_and_bigrams
from perdure.pipeline.data.topics import Learn

SEA = {
    "jpn": "船長 港町 灯台 漁師 波止場 海岸 帆船 錨鎖",
    "zho": "船长 港口 灯塔 渔民 海浪 海岸 帆船 铁锚",
    "tha": "เรือ ท่าเรือ ชาวประมง คลื่น ทะเล เกาะ ลูกเรือ สมอ",
    "hin": "जहाज़ बंदरगाह मछुआरे समुद्र किनारा नाविक तूफ़ान मस्तूल",
}
KITCHEN = {
    "jpn": "料理 砂糖 玉葱 小麦粉 台所 包丁 食器 牛乳",
    "zho": "厨房 面粉 洋葱 白糖 菜刀 食谱 牛奶 烤箱",
    "tha": "ครัว น้ำตาล หัวหอม แป้ง เตาอบ สูตรอาหาร จาน ช้อน",
    "hin": "रसोई चीनी प्याज़ मैदा चूल्हा मक्खन नमक चम्मच",
}
COMMON = {"jpn": "の は を に で", "zho": "的 了 在 和 是", "tha": "ที่ และ ของ ใน เป็น", "hin": "के में और से की"}


def document(code: str, words: str, seed: int) -> str:
    rng = random.Random(f"{code} {seed}")
    drawn = (rng.choice(words.split()) + " " + rng.choice(COMMON[code].split()) for _ in range(30))
    text = " ".join(drawn)
    return text if code == "hin" else text.replace(" ", "") + " " * rng.randrange(2) + str(seed)


def version_0_1_letters(text: str) -> list[str]:
    words = WORD.findall(re.sub(r"[\W\d_]+", " ", text.lower()))
    return [word for word in words if len(word) > 1 or not word.isascii()]


def version_0_1_bigrams(text: str) -> list[str]:
    words = WORD.findall(re.sub(r"([^\w\s]+)", r" \1 ", text.lower()))
    return words + [f"{first} {second}" for first, second in pairwise(words)]


@given(st.text(st.sampled_from("abcXYZ éàñŁß жйΩ ’—“.,;-_#12²½ שלום مرحبا 한국어가 ℹ\ufe0f\u200c\n")))
@settings(max_examples=300, deadline=None)
def test_words_of_scripts_with_blanks_and_without_marks_are_as_in_version_0_1(text):
    assert letters(text) == version_0_1_letters(text)
    assert uni_and_bigrams(text) == version_0_1_bigrams(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में 12 क़िले", "हिन्दी में क़िले"),
        ("श्\u200dरी جدًا İzmir", "श्री جدًا i̇zmir"),
        ("犬は Pythonで 3人の、犬", "犬は python 人の 犬"),
        ("カメラー「新しい」", "カメ メラ ラー 新し しい"),
        ("ห้องน้ำ ๆ", "ห้อ อง งน้ น้ำ"),
        ("ថ្មី\u200bប័ង", "ថ្មី ប័ង"),
        ("བོད་སྐད།", "བོད སྐད"),
    ],
)
def test_marks_stay_in_words_and_runs_without_blanks_are_pairs(text, words):
    assert letters(text) == words.split()


def test_a_classifier_sees_whole_words():
    assert uni_and_bigrams("हिन्दी में।") == ["हिन्दी", "में", "।", "हिन्दी में", "में ।"]


@pytest.mark.parametrize("code", LANGUAGES)
def test_languages_with_other_words_are_known(code):
    text = "".join(LANGUAGES[code].document(seed) for seed in range(3)) + "جدًا" * (code == "arb")
    assert has_other_words(code, pairs=True) is (letters(text) != version_0_1_letters(text))
    assert has_other_words(code, pairs=False) is (uni_and_bigrams(text) != version_0_1_bigrams(text))


@pytest.mark.parametrize("code", SEA)
def test_clusters_are_the_subjects_in_every_script_and_show_words(monkeypatch, tmp_path, code):
    texts = [document(code, words[code], seed) for words in (SEA, KITCHEN) for seed in range(30)]
    monkeypatch.setattr("perdure.pipeline.data.topics.sample_texts", lambda *_: texts)
    section = recipe.ClusterTopics(type="cluster", num_clusters=2)
    model, learned = Learn(section, tmp_path, tmp_path, "sources.news.topics").learn_clusters(2)
    found = model.predict(texts).tolist()
    assert found == [found[0]] * 30 + [1 - found[0]] * 30
    for cluster, words in ((found[0], SEA[code]), (1 - found[0], KITCHEN[code])):
        top = learned["top_words"][f"cluster-{cluster:02d}"]
        assert all(len(word) > 1 for word in top)
        assert any(word in words for word in top)
        if code == "hin":
            assert set(top) <= set(words.split())


@pytest.mark.parametrize(
    ("words", "version", "anew"),
    [
        (["harbour", "гавань", "항구", "x²"], {}, False),
        (["harbour", "मछ"], {}, True),
        (["の"], {}, True),
        (["เ"], {}, True),
        (["ق"], {}, True),
        (["मछली", "港町"], {"words": identity.WORDS}, False),
    ],
)
def test_clusters_that_version_0_1_made_of_other_words_are_made_anew(make_recipe, words, version, anew):
    made = make_recipe({"news": ["text"]}, topics={"type": "cluster", "num_clusters": 2})
    inputs = identity.part_inputs(made, "news", "topics", {"news": {}})
    assert "words" not in inputs
    folder = identity.place(made.directory, "topics/news", inputs)
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"top_words": {"cluster-00": words}} | version)
    now = identity.part_inputs(made, "news", "topics", {"news": {}})
    assert now == inputs | ({"words": identity.WORDS} if anew else {})
    identity.place(made.directory, "topics/news", now).mkdir(exist_ok=True)
    (folder / "manifest.json").unlink()
    assert identity.part_inputs(made, "news", "topics", {"news": {}}) == now


@pytest.mark.parametrize(
    ("topics", "clean", "anew"),
    [
        ("cluster", {"type": "language", "keep": ["en", "th"]}, True),
        ("cluster", {"type": "gopher_quality", "language": "zho"}, True),
        ("cluster", {"type": "gopher_quality"}, False),
        ("cluster", {"type": "language", "keep": ["de", "ko"]}, False),
        ("cluster", {"type": "language"}, False),
        ("classifier", {"type": "gopher_quality", "language": "zho"}, False),
        ("classifier", {"type": "gopher_quality", "language": "hin"}, True),
        ("metadata", {"type": "gopher_quality", "language": "hin"}, False),
    ],
)
def test_a_language_with_other_words_changes_what_topics_depend_on(
    make_recipe, tmp_path, topics, clean, anew
):
    (tmp_path / "labelled.jsonl").write_text("")
    fields = {
        "cluster": {"num_clusters": 2},
        "classifier": {"labelled": str(tmp_path / "labelled.jsonl")},
        "metadata": {"field": "x"},
    }
    recipe = make_recipe({"news": ["text"]}, clean=[clean], topics={"type": topics} | fields[topics])
    inputs = identity.part_inputs(recipe, "news", "topics", {"news": {}})
    assert inputs.pop("words", None) == (identity.WORDS if anew else None)
    assert inputs.keys() == {"format", "clean", "topics"}

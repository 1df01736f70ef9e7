"""Every code has a word splitter, filters keep fluent text of any script, and English is as it was."""

import pickle
from pathlib import Path

import pytest
import spacy
from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import C4QualityFilter
from datatrove.utils.word_tokenizers import load_word_tokenizer
from every_script import STEPS, fluent, ours, share_dropped, theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import LANGUAGES

from perdure.pipeline import recipe
from perdure.pipeline.core.errors import PerdureError
from perdure.pipeline.data.cleaning import languages as table
from perdure.pipeline.data.cleaning.languages import (
    PACKAGES,
    SPACY,
    splits_otherwise,
    splitter,
    stop_words,
)
from perdure.pipeline.data.cleaning.splitters import LanguageSplitter
from perdure.pipeline.data.cleaning.step_inputs import cleaning_inputs, language_model, languages
from perdure.pipeline.data.cleaning.steps.c4_quality import C4LinesFilter


def splits(language: str, text: str) -> list[str]:
    if missing := splitter(language).missing():
        pytest.skip(f"needs {', '.join(missing)}")
    return LanguageSplitter(language).word_tokenize(text)


def test_every_language_that_is_identified_has_a_splitter():
    folder = Path(spacy.__file__).parent / "lang"
    for code in languages(language_model(None)):
        found = splitter(code)
        assert found is not None, code
        if found.kind == "SpaCyTokenizer":
            assert (folder / found.language / "__init__.py").is_file() or found.language == "xx", code
            assert found.language not in ("th", "ko", "vi"), code
        else:
            assert found.kind in PACKAGES or found.kind == "WhitespaceTokenizer", code
    assert {path.parent.name for path in folder.glob("*/stop_words.py")} - SPACY <= {"ko", "bo"}


@pytest.mark.parametrize(
    ("codes", "text", "words"),
    [
        (
            "zh zho cmn zh_Hans zho_Hant cmn_Hani yue",
            "图书馆修理了港口的墙。",
            ["图书馆", "修理", "了", "港口", "的", "墙", "。"],
        ),
        ("ja jpn jpn_Jpan", "船は毎年運びます。", ["船", "は", "毎年", "運び", "ます", "。"]),
        ("th tha tha_Thai", "ห้องสมุดเก่า", ["ห้องสมุด", "เก่า"]),
        ("ko kor kor_Hang kor_Kore", "배의 선장은 왔다.", ["배의", "선장은", "왔다", "."]),
        ("hi hin hin_Deva", "नया घर है।", ["नया", "घर", "है", "।"]),
        ("ar ara arb arb_Arab", "نسي الطبيب؟", ["نسي", "الطبيب", "؟"]),
        ("de deu deu_Latn", "Der Arzt kam.", ["Der", "Arzt", "kam", "."]),
    ],
)
def test_all_codes_of_a_language_split_alike(codes, text, words):
    for code in codes.split():
        assert splits(code, text) == words, code


def test_codes_of_several_languages_mean_the_one_that_the_table_marks():
    scripts = {code: splitter(code).script for code in "zh ar hi sr fa pa ms no az uz".split()}
    assert scripts == {
        **{"zh": "Hani", "ar": "Arab", "hi": "Deva", "sr": "Cyrl", "fa": "Arab"},
        **{"pa": "Guru", "ms": "Latn", "no": "Latn", "az": "Latn", "uz": "Latn"},
    }
    assert splitter("xx") is splitter("zh_Thai") is None


def test_splitters_are_as_in_version_0_1_where_it_took_the_right_row():
    for code in ("eng", "de", "fra", "rus", "cmn", "jpn", "yue", "tha", "ell", "fin", "heb"):
        assert not splits_otherwise(code)
        if splitter(code).missing():
            continue
        theirs = load_word_tokenizer(code)
        assert (type(theirs).__name__, theirs.language or "") == (
            splitter(code).kind,
            splitter(code).language,
        )
    for code in ("zh", "zho", "hi", "hin", "ar", "kor", "zh_Hans", "ms"):
        assert splits_otherwise(code)


def test_stop_words_are_words():
    assert all(
        any(character.isalpha() for character in word)
        for code in ("de", "zh", "hi")
        for word in stop_words(code)
    )
    assert {
        code: splitter(code).stop_words for code in ("deu", "jpn", "kor", "azb", "bar", "srp_Latn", "mai")
    } == {
        **{"deu": "de", "jpn": "ja", "kor": None, "azb": None, "bar": None, "srp_Latn": None},
        "mai": splitter("mai").stop_words,
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_fluent_text_stays(language, step):
    splits(language, "")
    texts = fluent(LANGUAGES[language])[:15]
    dropped = share_dropped(ours(step, language), texts)
    assert dropped <= 1 / 15
    if language != "kor":  # datatrove wants Kiwi
        try:
            assert dropped <= share_dropped(theirs(step, language), texts)
        except ImportError as error:
            pytest.skip(str(error))


def test_rules_still_drop_what_is_no_prose():
    splits("jpn", "")
    assert (
        share_dropped(
            ours("gopher_quality", "jpn"), ["株式会社 " * 20, "船は来た。", "2024 10 11 12:30 " * 30]
        )
        == 1
    )
    assert (
        share_dropped(
            ours("c4_quality", "jpn"), ["\n".join(["お問い合わせ", "ログイン", "トップページへ戻る"] * 5)]
        )
        == 1
    )
    assert share_dropped(ours("gopher_repetition", "jpn"), ["港の壁を直しました。" * 20]) == 1
    assert share_dropped(ours("fineweb_quality", "zho"), ["\n".join(f"第{n}条" for n in range(40))]) == 1


LINES = [
    *(
        "A first sentence. Another one!",
        "so",
        "[1] x y z.",
        'He said "no"',
        "wait for it...",
        "{ }.",
        "x" * 1001 + " a b.",
    ),
    *("See our Privacy Policy now.", "JavaScript is off here.", "lorem ipsum dolor.", "No end of this line"),
]


@given(st.lists(st.sampled_from(LINES)))
@settings(max_examples=60, deadline=None)
def test_c4_of_english_is_as_datatrove_does_it(lines):
    known, own = (Document("\n".join(lines), "id") for _ in range(2))
    result = C4QualityFilter(language="eng", min_num_sentences=2).filter(known)
    step = C4LinesFilter(language="eng", min_num_sentences=2)
    assert step.filter(own) == result and own.text == known.text


def test_lines_may_end_in_the_quotes_of_their_language():
    step = C4LinesFilter(language="deu", min_num_sentences=1)
    text = "„Das ist ein guter Satz.“\n« C’est une bonne phrase. »\nKein Ende hier dran"
    document = Document(text, "id")
    assert step.filter(document) is True and document.text.count("\n") == 1


def test_a_splitter_crosses_to_workers_as_its_code():
    found = LanguageSplitter("eng")
    found.word_tokenize("One two")
    assert len(pickle.dumps(found)) < 200 and pickle.loads(pickle.dumps(found)) == found


def test_identities_are_those_of_version_0_1_unless_the_result_changes():
    def inputs(section, **options) -> dict:
        return cleaning_inputs(section(**options))

    english = inputs(recipe.GopherQuality, type="gopher_quality")
    assert (english["min_avg_word_length"], english["max_avg_word_length"], english["min_stop_words"]) == (
        3,
        10,
        2,
    )
    assert english.keys() == recipe.GopherQuality.model_fields.keys()
    german = inputs(recipe.GopherQuality, type="gopher_quality", language="deu", min_stop_words=0)
    assert german == english | {"language": "deu", "min_stop_words": 0}
    fineweb = inputs(recipe.FineWebQuality, type="fineweb_quality")
    assert (fineweb["line_punct_thr"], fineweb["short_line_length"]) == (0.12, 30)
    c4 = inputs(recipe.C4Quality, type="c4_quality")
    assert c4["filter_no_terminal_punct"] is True and c4.keys() == recipe.C4Quality.model_fields.keys()
    repetition = inputs(recipe.GopherRepetition, type="gopher_repetition")
    assert [list(pair) for pair in repetition["dup_n_grams"]] == [
        [5, 0.15],
        [6, 0.14],
        [7, 0.13],
        [8, 0.12],
        [9, 0.11],
        [10, 0.1],
    ]
    assert inputs(recipe.GopherQuality, type="gopher_quality", language="jpn")["min_avg_word_length"] == 1
    assert "splitter" in inputs(recipe.SentenceDedup, type="sentence_dedup", language="zho")
    assert "sentence_ends" in inputs(recipe.C4Quality, type="c4_quality", language="deu")


def test_english_is_known_without_the_table_as_the_table_has_it(monkeypatch):
    for code in table.ENGLISH:
        known = splitter.__wrapped__(code), splits_otherwise.__wrapped__(code)
        with monkeypatch.context() as patch:
            patch.setattr(table, "ENGLISH", set())
            assert known == (splitter.__wrapped__(code), splits_otherwise.__wrapped__(code))


def test_without_datatrove_a_language_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("perdure.pipeline.core.extras.is_installed", lambda package: False)
    table.assignments.cache_clear()
    assert splitter.__wrapped__("en").language == "en"
    with pytest.raises(PerdureError, match=r"needs datatrove.*perdure\[data\]"):
        splitter.__wrapped__("de")

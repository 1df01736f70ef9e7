"""Word and sentence splitters and defaults of quality rules by language, from datatrove's table.

The table has a row for every language and script. datatrove takes the last row of a language, so that `zh`, `hi` and `ar` are
those of the Latin script; here a code means the row that the table marks as the default. Where words stand between blanks, text
is split by spaCy's rules even if datatrove asks for another library: one that splits there alike (Indic NLP), that downloads a
model while it runs (Stanza), or whose words are morphemes or several syllables (Kiwi, pyvi).
"""

import csv
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from perdure.pipeline.core.extras import require

ALIASES = {"bh": "bho", "tl": "fil", "tgl": "fil"}
"""Codes that the table lacks, of Bihari languages and Tagalog."""
SCRIPTS = {"Hans": "Hani", "Hant": "Hani", "Hira": "Jpan", "Kana": "Jpan", "Kore": "Hang"}
"""Scripts (ISO 15924) that the table has by another name."""
WITHOUT_BLANKS = {"Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"}
WITH_MARKS = frozenset(
    "Arab Beng Deva Gujr Guru Hebr Kali Knda Limb Mlym Mong Mtei Nkoo Orya Sinh Syrc Taml Telu Thaa Tibt".split()
)
"""Scripts with blanks or dots between words, and vowel signs or points, at which version 0.1 cut words in `features`."""
DOTTED_I = {"az", "aze", "azj", "crh", "tr", "tur"}
"""Codes of languages with a capital dotted I; in lower case, that is an i and a mark."""
ENGLISH = {"en", "eng", "en_Latn", "eng_Latn"}
"""Codes of the language that the published rules were made for."""
SPACY = frozenset(
    "af am ar az bg bn ca cs da de dsb el en es et eu fa fi fr ga gd grc gu he hi hr hsb ht hu hy id is it ja kmr kn ky la lb "
    "lg lij lt lv mk ml mr ms nb ne nl pl pt ro ru sa si sk sl sq sr sv ta te th ti tl tn tr tt uk ur vi yo zh".split()
)
"""Languages of spaCy's with stop words. Those of Korean are morphemes, which do not stand between blanks."""
ANY = "xx"
"""spaCy's rules for any language: blanks and punctuation."""
REPLACED = {"StanzaTokenizer", "IndicNLPTokenizer", "KiwiTokenizer"}
PACKAGES = {
    "ThaiTokenizer": {"pythainlp": "pythainlp", "pycrfsuite": "python-crfsuite"},
    "LaoTokenizer": {"laonlp": "laonlp"},
    "KhmerTokenizer": {"khmernltk": "khmer-nltk"},
    "BurmeseTokenizer": {"pyidaungsu": "pyidaungsu-numpy2"},
    "TibetanTokenizer": {"botok": "botok"},
}
"""Modules that datatrove's classes need beside spaCy, with the packages that bring them."""
SPACY_PACKAGES = {
    "zh": {"jieba": "jieba"},
    "ja": {"sudachipy": "sudachipy", "sudachidict_core": "sudachidict_core"},
}
"""The same by spaCy's language."""
WORD_LENGTHS = {
    **dict.fromkeys(("Hani", "Jpan", "Tibt"), (1.0, 10.0)),
    **dict.fromkeys(
        ("Thai", "Laoo", "Khmr", "Hang", "Arab", "Hebr", "Deva", "Beng", "Gujr", "Guru"), (2.0, 10.0)
    ),
    **dict.fromkeys(("Mymr", "Taml", "Telu", "Knda", "Mlym", "Sinh"), (2.0, 20.0)),
}
"""Lowest and highest mean length of a word in characters, by script; elsewhere Gopher's, 3 and 10."""
SHORT_LINES = {"Hani": 10, "Jpan": 13, "Hang": 15}
"""Characters of a short line, that is of six words; elsewhere FineWeb's, 30."""
WITHOUT_SENTENCE_ENDS = {"Thai", "Laoo"}
"""Scripts whose sentences end in a blank."""


@dataclass(frozen=True)
class Splitter:
    """How text of a language is split.

    Attributes:
        kind: datatrove's class.
        language: What it is told: for spaCy, a language of spaCy's.
        script: ISO 15924.
        stop_words: The language of spaCy's list of stop words that fits; None without one.
    """

    kind: str
    language: str
    script: str
    stop_words: str | None

    def missing(self) -> list[str]:
        """Packages that have to be installed first."""
        modules = {"spacy": "spacy"} | PACKAGES.get(self.kind, {})
        if self.kind == "SpaCyTokenizer":
            modules |= SPACY_PACKAGES.get(self.language, {})
        return [package for module, package in modules.items() if importlib.util.find_spec(module) is None]


@lru_cache
def splitter(code: str) -> Splitter | None:
    """How a language is split, by its ISO 639-1 or -3 code, perhaps with a script; None for one that nobody knows."""
    if (
        code in ENGLISH
    ):  # known to machines without datatrove, too, which have to name the data that they train on
        return Splitter("SpaCyTokenizer", "en", "Latn", "en")
    language, _, script = code.partition("_")
    language, script = ALIASES.get(language, language), SCRIPTS.get(script, script)
    found = [row for row in assignments() if language in (row["code_3"], row["code_1"])]
    found = [row for row in found if (row["script"] == script if script else row["default_script"] == "TRUE")]
    # A two-letter code may stand for several languages; datatrove's mark says for which one first of all.
    found.sort(key=lambda row: (row["code_3"] != language, row["default_code_1"] != "TRUE"))
    if not found:
        return None
    row = found[0]
    kind, own = row["type"], row["tok_code"]
    listed = next((code for code in (row["code_1"], own) if _lists(code, row)), None)
    if kind in REPLACED or own == "vi":
        kind, own = "SpaCyTokenizer", own if row["type"] == "IndicNLPTokenizer" and own in SPACY else ANY
    return Splitter(kind, own, row["script"], listed)


def stop_words(language: str) -> list[str]:
    """spaCy's stop words of a language; its lists have punctuation, too, which every text has."""
    words = importlib.import_module(f"spacy.lang.{language}.stop_words").STOP_WORDS
    return sorted(word for word in words if any(character.isalpha() for character in word))


def with_language(step: Any) -> dict[str, Any]:
    """The fields of a cleaning step except `type`, with defaults that depend on its language."""
    fields = step.model_dump(exclude={"type"})
    found = splitter(fields["language"]) if "language" in fields else None
    script = found.script if found else "Latn"
    shortest, longest = WORD_LENGTHS.get(script, (3.0, 10.0))
    by_language = {
        "min_avg_word_length": shortest,
        "max_avg_word_length": longest,
        "min_stop_words": 2 if fields.get("stop_words") or (found and found.stop_words) else 0,
        "filter_no_terminal_punct": script not in WITHOUT_SENTENCE_ENDS,
        "line_punct_thr": 0.0 if script in WITHOUT_SENTENCE_ENDS else 0.12,
        "short_line_length": SHORT_LINES.get(script, 30),
        "dup_n_grams": tuple((n + 2 * (script == "Jpan"), (20 - n) / 100) for n in range(5, 11)),
    }
    return {name: by_language.get(name) if value is None else value for name, value in fields.items()}


@lru_cache
def splits_otherwise(code: str) -> bool:
    """Whether datatrove's own choice of splitter for a code, which version 0.1 used, is another one."""
    if code in ENGLISH:
        return False
    theirs: dict[str, dict] = {}
    for (
        entry
    ) in assignments():  # as `load_tokenizer_assignments` goes through it, to which all flags are true
        for own in filter(None, (entry["code_3"], entry["code_1"])):
            if f"{own}_{entry['script']}" not in theirs:
                theirs[f"{own}_{entry['script']}"] = theirs[own] = entry
    ours, row = splitter(code), theirs.get(code)
    return ours is not None and (row is None or (row["type"], row["tok_code"]) != (ours.kind, ours.language))


def has_other_words(code: str, pairs: bool) -> bool:
    """Whether text of a language has other words in `features` than in version 0.1.

    Args:
        code: As in a recipe; nothing is known of one that no table has.
        pairs: Whether those of scripts without blanks are pairs of characters (`letters`), too.
    """
    found = splitter(code)
    if found is None:
        return False
    known = found.script in WITH_MARKS or (pairs and found.script in WITHOUT_BLANKS)
    return known or code.partition("_")[0] in DOTTED_I


@lru_cache
def assignments() -> list[dict[str, str]]:
    """Rows of datatrove's table, `assets/tokenizer_assignment.csv`, that name a splitter; datatrove is not imported.

    Raises:
        PerdureError: If datatrove is not installed.
    """
    require("datatrove")
    spec = importlib.util.find_spec("datatrove")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "assets" / "tokenizer_assignment.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["type"]]


def _lists(code: str, row: dict[str, str]) -> bool:
    """Whether spaCy's stop words of a code are of a row's language, in its script."""
    if code not in SPACY or (code != row["code_1"] and row["proxy"] == "TRUE"):
        return False
    scripts = (
        other["script"]
        for other in assignments()
        if other["code_1"] == code and other["default_code_1"] == "TRUE"
    )
    return next(scripts, row["script"]) == row["script"]

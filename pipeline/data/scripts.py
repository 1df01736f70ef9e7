"""Scripts without blanks between words, accents and punctuation, as patterns of `regex`; without datatrove's modules."""

import unicodedata

import regex

HAN_SCRIPTS = r"\p{Han}\p{Yi}\p{Tangut}\p{Nushu}"
# Line_Break=SA: what Unicode breaks by dictionaries, as Thai, Lao, Khmer, Burmese. Katakana's long vowel is of no script.
KANA_SCRIPTS = r"\p{Hiragana}\p{Katakana}\p{Bopomofo}\u30fc\uff70\uff9e\uff9f"
OTHER_SCRIPTS = rf"{KANA_SCRIPTS}\p{{Line_Break=SA}}\p{{Tibetan}}\p{{Javanese}}\p{{Balinese}}"
WITHOUT_BLANKS = HAN_SCRIPTS + OTHER_SCRIPTS
"""Characters of scripts without blanks between words, for a set of an expression of `regex`."""
# Accents that are left out by some writers. Other marks are letters: kana's voicing, Thai tones, Indian vowels.
_ACCENT = (
    r"[\p{Mn}&&[\p{Latin}\p{Greek}\p{Cyrillic}\p{Hebrew}\p{Arabic}\p{Syriac}\p{Inherited}]--[\u3099\u309a]]"
)
ACCENTS = regex.compile(rf"(?V1){_ACCENT}+")
# What datatrove's list of punctuation lacks; it is for scripts with the punctuation of Latin, whose results stay.
_MARK = r"[[\p{P}\u200b\u2060]--[\u0000-\u036f\u2000-\u200a\u200c-\u205f\u2061-\u206f]]"
PUNCTUATION = regex.compile(rf"(?V1){_MARK}")
_BY_AMOUNT = regex.compile(rf"(?V1)[{WITHOUT_BLANKS}]|[\p{{Mn}}--{_ACCENT}]|{_MARK}")


def compared_by_amount(text: str) -> bool:
    """Whether a text has anything that version 0.1 compared otherwise: by count of characters, or without marks."""
    return not text.isascii() and _BY_AMOUNT.search(unicodedata.normalize("NFD", text)) is not None

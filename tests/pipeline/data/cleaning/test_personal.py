"""Addresses are found where datatrove finds them, in a time that grows with the text."""

from datatrove.pipeline.formatters.pii import PIIFormatter
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.pipeline.data.cleaning.step_inputs import ADDRESS, EMAIL
from perdure.pipeline.data.cleaning.steps.pii import AddressReplacer

PIECES = [
    "a",
    "Z9",
    "é",
    ".",
    "..",
    "-",
    "@",
    "@b.c",
    "@[1.2.3.4]",
    "@x-y.co.uk",
    " ",
    "\n",
    "'",
    "_",
    "+",
    "1.2.3.4",
    ":",
    "]",
]
OURS = AddressReplacer(remove_emails=True, remove_ips=True, only_remove_public_ips=False)
THEIRS = PIIFormatter(only_remove_public_ips=False, email_replacement=EMAIL, ip_replacement=ADDRESS)


@given(st.lists(st.sampled_from(PIECES), max_size=24))
@example(["a", ".", "a", "@b.c", "@b.c"])
@example(["é", "a", "-", "Z9", "@b.c", "a", "@x-y.co.uk"])
def test_the_same_addresses_as_datatrove(pieces):
    text = "".join(pieces)
    assert OURS.format(text) == THEIRS.format(text)


def test_what_is_replaced():
    text = "Ask jane.doe+x@mail.example.org, or 8.8.8.8; not me@ or a..b@c"
    assert OURS.format(text) == f"Ask {EMAIL}, or {ADDRESS}; not me@ or a..b@c"

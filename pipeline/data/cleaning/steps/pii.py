"""The step `pii`: replaces e-mail and IP addresses as datatrove does, in time linear in the text."""

import re
from pathlib import Path
from string import ascii_letters, digits

from datatrove.pipeline.formatters.pii import PIIFormatter

from perdure.pipeline.data.cleaning.counted import Block
from perdure.pipeline.data.cleaning.step_inputs import ADDRESS, EMAIL
from perdure.pipeline.recipe import PersonalData

LOCAL = frozenset(ascii_letters + digits + "!#$%&'*+/=?^_`{|}~-")
"""What the part of an e-mail address before the `@` consists of, but for single dots."""
BEGIN = re.compile(rf"\b[{re.escape(''.join(sorted(LOCAL)))}]")


def block(step: PersonalData, _folder: Path) -> Block:
    """The step's block."""
    return Block("pii", AddressReplacer(remove_emails=step.remove_emails, remove_ips=step.remove_ips))


class AddressReplacer(PIIFormatter):
    """Replaces e-mail and public IP addresses, as datatrove does.

    Its expression for e-mail addresses begins anew at every dot or hyphen of a text, and each time reads on as long as an
    address could: quadratic time without any `@`. This one looks at what stands around every `@`.
    """

    def __init__(self, **options: bool):
        # One of each kind: datatrove would take several in turn, so that equal texts would become different ones.
        super().__init__(**options, email_replacement=EMAIL, ip_replacement=ADDRESS)

    def format(self, text: str) -> str:
        """The text with its addresses replaced."""
        if self.remove_emails:
            text = self.replace_emails(text)
        return self.ip_replacer.replace(text) if self.remove_ips else text

    def replace_emails(self, text: str) -> str:
        """The text with its e-mail addresses replaced, just as `emails_replacer.replace` does it."""
        pieces, end, at = [], 0, text.find("@")
        while at >= 0:
            begin = BEGIN.search(text, _local_part(text, end, at), at)
            if begin and (address := self.emails_replacer.regex.match(text, begin.start())):
                pieces += [text[end : begin.start()], EMAIL]
                end = address.end()
            at = text.find("@", at + 1)
        return "".join([*pieces, text[end:]])


def _local_part(text: str, low: int, at: int) -> int:
    """Where the longest run ends, read backwards from an `@`, of what may stand before it."""
    start = at
    while start > low and (text[start - 1] in LOCAL or (text[start - 1] == "." and text[start] not in ".@")):
        start -= 1
    return start

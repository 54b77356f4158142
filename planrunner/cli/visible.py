"""What may not reach a terminal as it is: control characters, and those that turn the direction of writing."""

import re

# A name on a server, a hook's words or a file's name may hold them, and would move the cursor, set the window's title
# or show a line backwards.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with such characters written out, as JSON would; line ends and tabs stay."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

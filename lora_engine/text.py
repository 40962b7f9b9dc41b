"""Makes text from anywhere fit to be shown: no control character, line break or direction mark acts on a terminal."""


def printable(text: str) -> str:
    """The text as one line, in which characters that do not print are escaped as in a Python string."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, length: int) -> str:
    """The text if it has at most `length` characters, else its start and its end around three dots, as long as that."""
    if len(text) <= length:
        return text
    end = length // 4
    return f"{text[: length - end - 3]}...{text[-end:]}"

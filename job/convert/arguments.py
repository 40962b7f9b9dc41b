"""Reads settings that hold settings of their own: `name=value` texts, with spaces between."""

from collections.abc import Mapping
from typing import Any

from job.convert.settings import Reading, as_number, says_no
from job.manifest.foreign import fate_of
from lora_engine.text import shortened

Arguments = Mapping[str, str]  # texts as they are written, by name
_MARKS = "()[] '\""  # around a value, or several
_WORDS = {"true": True, "false": False, "none": None}


def read_arguments(reading: Reading, setting: str, key: str) -> Arguments:
    """The arguments that a setting holds, which becomes a key of the manifest. Empty where it is not written."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in reading.words(setting, key):
        before, equals, value = word.partition("=")
        if equals:
            name = before
            found[name] = [value]
        else:
            found.setdefault(name or word, []).append(word)  # A value in brackets may have spaces, too.
    return {name: " ".join(words) for name, words in found.items()}


def plain(text: str) -> Any:
    """The value that a text means: a number, true, false, nothing, or the text itself."""
    bare = text.strip(_MARKS)
    number = as_number(bare)
    return _WORDS.get(bare.lower(), bare) if number is None else number


def numbers(text: str) -> list[float]:
    """The numbers of a text that has commas between them; empty where it holds anything else."""
    found = [as_number(part) for part in text.strip(_MARKS).split(",") if part.strip()]
    known = [number for number in found if number is not None]
    return known if len(known) == len(found) else []


def say_not_taken(reading: Reading, setting: str, arguments: Arguments, why: str = "") -> None:
    """Remark on arguments that no key of the manifest says, unless they are off.

    Args:
        why: of all of them; "" where the table of settings says it of each.
    """
    lost: dict[str, list[str]] = {}
    for name, text in arguments.items():
        if not says_no(plain(text)):
            lost.setdefault(why or _why(reading, name), []).append(f"{name}={shortened(text, 80)}")
    for reason, said in lost.items():
        reading.remarks.append(f"Not taken: {setting} {shortened(' '.join(said), 400)}: {reason}.")


def _why(reading: Reading, name: str) -> str:
    fate = fate_of(name)
    if fate is None:
        return "not known"
    return f"{reading.program.title} would not read it here" if fate.becomes == "key" else fate.why

"""Reads the names of a zip's members, which do not always say in which code they are written."""

import re
import struct
import zlib
from collections.abc import Iterable, Sequence, Set
from zipfile import ZipInfo

_IS_UTF8 = 1 << 11  # flag of a member whose name says that it is UTF-8
_UNICODE_NAME = 0x7075  # id of Info-ZIP's extra field: a version, the CRC of the other name, and the name in UTF-8
_KANA, _KANJI = "\u3040-\u30ff", "\u3005-\u3007\u4e00-\u9fff\uff01-\uff5e"
# Code pages that old systems wrote names in, the characters that names written in each consist of, and their share of
# all beyond ASCII. An earlier one that fits wins: any Korean can be read as Chinese, but hardly any Chinese as Korean
# alone. Japanese has letters of half the width besides, which Chinese read as Japanese is full of.
_CYRILLIC = "cp866"
_CODE_PAGES = {
    "cp932": (f"[{_KANA}{_KANJI}]", 0.7),
    _CYRILLIC: ("[\u0400-\u04ff]", 0.9),
    "cp949": ("[\uac00-\ud7a3]", 0.9),
    "gb2312": (f"[{_KANJI}]", 0.9),
    "big5": (f"[{_KANJI}]", 0.9),
    "gbk": (f"[{_KANJI}]", 0.9),
}
# What Python reads bytes as, alone, that name nothing in the page of Japanese.
_UNASSIGNED = re.compile("[\x80-\x9f\uf8f0-\uf8f3]")
_DOS = "cp437"  # in which any bytes are a name, and as which `zipfile` reads them
_RUN = re.compile(r"[^\x00-\x7f]+")
# What accented letters look like in such a code page: one beside a letter, or some between two letters. In a page of
# two bytes a character one takes the letter after it in.
_WITHIN = re.compile(
    r"(?<=[A-Za-z])[^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f](?=[A-Za-z])"
    r"|(?<=[A-Za-z])[^\x00-\x7f]+(?=[A-Za-z])"
)


def member_names(members: Sequence[ZipInfo]) -> list[str]:
    """The members' names as they were meant, with forward slashes between folders, in the order of the members.

    A name is UTF-8 where it says so, where Info-ZIP's field for Unicode names says so, or where all others are. Where
    some are not, one code page is theirs: the first of `_CODE_PAGES` that fits, else that of DOS. Those that could be
    UTF-8 are of the same page if it fits them, too. A byte of a character is never a separator.
    """
    known = [_declared(member) for member in members]
    raws = {member.orig_filename.encode(_DOS) for member, name in zip(members, known, strict=True) if name is None}
    meant = _decoded(raws)
    names = (name or meant[m.orig_filename.encode(_DOS)] for m, name in zip(members, known, strict=True))
    return [name.split("\0")[0] for name in names]  # as `zipfile` cuts them


def _declared(member: ZipInfo) -> str | None:
    """The name of a member that says in which code it is; None of another."""
    if member.flag_bits & _IS_UTF8:
        return _slashed(member.orig_filename)
    raw, extra = member.orig_filename.encode(_DOS), member.extra
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_NAME and field[:5] == struct.pack("<BL", 1, zlib.crc32(raw)) and _is_utf8(field[5:]):
            return _slashed(field[5:].decode()) or None
    return None


def _decoded(raws: Set[bytes]) -> dict[bytes, str]:
    """What each of the names means that do not say in which code they are."""
    legacy: Set[bytes] = {raw for raw in raws if not _is_utf8(raw)}
    page = next((page for page in _CODE_PAGES if _fits(page, legacy)), _DOS)
    if legacy and _fits(page, raws - legacy):
        legacy = raws
    return {raw: _in_page(raw, page) if raw in legacy else _slashed(raw.decode()) for raw in raws}


def _fits(page: str, raws: Iterable[bytes]) -> bool:
    """Whether the names may be written in the code page: it decodes them all, to what such names consist of."""
    if page not in _CODE_PAGES:
        return False
    characters, share = _CODE_PAGES[page]
    try:
        text = "/".join(part.decode(page) for part in {part for raw in raws for part in raw.split(b"/")})
    except UnicodeDecodeError:
        return False
    if _UNASSIGNED.search(text):
        return False
    foreign = "".join(_RUN.findall(text))
    is_of_kind = len(re.findall(characters, foreign)) >= share * len(foreign)
    return is_of_kind and 2 * len(_WITHIN.findall(text)) < max(1, len(_RUN.findall(text)))


def _in_page(raw: bytes, page: str) -> str:
    """The name in that code page. The page is a guess: a backslash after a letter of one byte may be half of one."""
    of_one_byte = "[^\x00-\x7f]" if page in (_CYRILLIC, _DOS) else "[\uff61-\uff9f]"
    return _slashed(re.sub(rf"(?<={of_one_byte})\\", "\uff3c", raw.decode(page)))


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True

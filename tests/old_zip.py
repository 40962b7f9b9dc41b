"""Writes zips as programs did, or do, that know no flag for UTF-8: a member's name is any bytes."""

import io
import zipfile
from collections.abc import Sequence


class _Member(zipfile.ZipInfo):
    """A member whose name is written as the bytes that its characters, each below 256, stand for."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - what zipfile calls
        return self.filename.encode("latin-1"), self.flag_bits & 1 << 11


def old_zip(members: Sequence[tuple[bytes, bytes]], extra: Sequence[bytes] = (), flags: int = 0) -> bytes:
    """A zip of members with these names, contents and flags; `extra` are their extra fields."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for at, (name, content) in enumerate(members):
            member = _Member(name.decode("latin-1"))
            member.flag_bits = flags
            member.extra = extra[at] if extra else b""
            archive.writestr(member, content)
    return data.getvalue()

"""Feeds damaged archives to the archive reader: it may refuse them, and writes nowhere but into its folder."""

import io
import shutil
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

from lora_engine.errors import DataError, UnsafeError
from lora_engine.images.sources import extract_archive
from mutate import fuzz

MEMBERS = [("a.png", b"1" * 300), ("d/é.png", b"2" * 40), (f"{'x' * 130}.png", b""), ("d/", b"")]


def zips() -> list[bytes]:
    """Stored, deflated, and with a comment and extra fields."""
    result = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", compression) as archive:
            archive.comment = b"a comment"
            for name, content in MEMBERS:
                info = zipfile.ZipInfo(name)
                info.extra, info.compress_type = b"\1\0\x08\0" + bytes(8), compression
                archive.writestr(info, content)
        result.append(data.getvalue())
    return result


def tars() -> list[bytes]:
    """In each of tar's three formats, plain and gzipped."""
    result = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for mode in ("w", "w:gz"):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode=mode, format=form) as archive:  # type: ignore[call-overload]
                for name, content in MEMBERS:
                    info = tarfile.TarInfo(name if form != tarfile.USTAR_FORMAT else name[-90:])
                    info.size, info.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
                    archive.addfile(info, io.BytesIO(content))
            result.append(data.getvalue())
    return result


def read(data: bytes, name: str, root: Path) -> str:
    """Unpack, and make sure that nothing was written outside of the folder."""
    archive, out = root / "in" / name, root / "out"
    archive.write_bytes(data)
    try:
        files = list(extract_archive(archive, out))
    except (DataError, UnsafeError) as error:
        outcome, plain = type(error).__name__, str(error).isprintable()
    else:
        plain = True
        assert all(Path(file.path).parent == out for file in files), "members lie in their folder"
        outcome = "read"
    assert plain, "a message is one plain line"
    assert {path.name for path in root.iterdir()} <= {"in", "out"}, "nothing else is written"
    assert all(path.is_file() and not path.is_symlink() for path in out.iterdir()), "plain files alone"
    shutil.rmtree(out, ignore_errors=True)
    return outcome


def main() -> int:
    """Fuzz zips and tars in turn."""
    warnings.simplefilter("ignore")
    seeds, turn = zips() + tars(), iter(range(10**12))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()

        def either(data: bytes) -> str:
            kind = "a.zip" if data.startswith(b"PK") or next(turn) % 8 == 0 else "a.tar"
            return read(data, kind, Path(folder))

        return fuzz(either, seeds, Path("fuzz-crashes/archive_reader"))


if __name__ == "__main__":
    sys.exit(main())

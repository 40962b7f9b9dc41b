"""What a store promises of an object's bytes beside their number: a checksum, or an ETag that is the bytes' MD5."""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from awscrt.checksums import XXHash, crc32c, crc64nvme


class Hash(Protocol):
    """A checksum that is being computed."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""
        ...

    def digest(self) -> bytes:
        """The checksum of all bytes so far."""
        ...


class _Crc:
    """A cyclic redundancy check with the interface of hashlib.

    Args:
        add: gives the check of bytes that follow others, from those bytes and the others' check.
        size: of the digest, in bytes.
    """

    def __init__(self, add: Callable[[bytes, int], int], size: int) -> None:
        self._add, self._size, self._value = add, size, 0

    def update(self, data: bytes, /) -> None:
        self._value = self._add(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


class _XxHash:
    """An xxHash with the interface of hashlib."""

    def __init__(self, state: XXHash) -> None:
        self._state = state

    def update(self, data: bytes, /) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        found: bytes = self._state.finalize()  # More may be taken in after it.
        return found


# Fields of an answer, best first.
_CHECKSUMS: Mapping[str, tuple[str, Callable[[], Hash]]] = {
    "ChecksumSHA512": ("SHA-512", hashlib.sha512),
    "ChecksumSHA256": ("SHA-256", hashlib.sha256),
    "ChecksumSHA1": ("SHA-1", lambda: hashlib.sha1(usedforsecurity=False)),
    "ChecksumMD5": ("MD5", lambda: hashlib.md5(usedforsecurity=False)),
    "ChecksumXXHASH128": ("XXH128", lambda: _XxHash(XXHash.new_xxhash3_128())),
    "ChecksumXXHASH3": ("XXH3", lambda: _XxHash(XXHash.new_xxhash3_64())),
    "ChecksumXXHASH64": ("XXH64", lambda: _XxHash(XXHash.new_xxhash64())),
    "ChecksumCRC64NVME": ("CRC64NVME", lambda: _Crc(crc64nvme, 8)),
    "ChecksumCRC32C": ("CRC32C", lambda: _Crc(crc32c, 4)),
    "ChecksumCRC32": ("CRC32", lambda: _Crc(zlib.crc32, 4)),
}
_OF_DIRECTORY_BUCKET = "--x-s3"  # what the names of buckets end in whose ETags are random


@dataclass(frozen=True)
class Promise:
    """A checksum that the bytes of an object must have.

    Attributes:
        name: of the checksum, for messages.
        expected: its value.
        hash: takes in the bytes as they come.
    """

    name: str
    expected: bytes
    hash: Hash

    def is_kept(self) -> bool:
        """Whether all bytes that `hash` took in together are those of the object."""
        return self.hash.digest() == self.expected


def promise_of(answer: Mapping[str, Any], bucket: str) -> Promise | None:
    """The best promise of an answer to a GET of a whole object; None where it makes none that can be checked."""
    if answer.get("ChecksumType") != "COMPOSITE":  # such a one is a checksum of the checksums of parts
        for field, (name, make) in _CHECKSUMS.items():
            value = _decoded(answer.get(field, ""))
            if len(value) == len(make().digest()):
                return Promise(name, value, make())
    etag = str(answer.get("ETag", "")).removeprefix("W/").strip('"')
    is_md5 = re.fullmatch("[0-9a-f]{32}", etag) and not bucket.endswith(_OF_DIRECTORY_BUCKET)
    if is_md5 and not (_is_encrypted_by_kms(answer) or answer.get("SSECustomerAlgorithm")):
        return Promise("MD5", bytes.fromhex(etag), hashlib.md5(usedforsecurity=False))
    return None


def _decoded(value: str) -> bytes:
    """The bytes of a checksum; none of one of parts, whose number follows a hyphen."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _is_encrypted_by_kms(answer: Mapping[str, Any]) -> bool:
    return str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")

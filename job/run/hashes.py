"""Hashes of rows, by which an attempt notices that they are others than were written: of values, not of bytes."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict

from job.storage.folder import jsonl_bytes
from job.storage.stored import StoredJson
from lora_engine.records import CaptionRecord, StepRecord


class CaptionHashes(StoredJson):
    """`data/captions.json`: what is in the files of captions. Written before them."""

    sha256: dict[str, str]  # caption set to the hash of its rows


def captions_hash(records: Iterable[CaptionRecord]) -> str:
    """A hash of a set's captions."""
    return _hash_of(map(asdict, records))


def metrics_hash(rows: Iterable[StepRecord]) -> str:
    """A hash of a member's rows."""
    return _hash_of(row.row() for row in rows)


def _hash_of(rows: Iterable[dict[str, object]]) -> str:
    return hashlib.sha256(jsonl_bytes(rows)).hexdigest()

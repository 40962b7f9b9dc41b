"""What other programs stored, without the SHA-256 that this one keeps, is verified as it is fetched, too."""

import base64
import gzip
import hashlib
import io
import os
import random
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from awscrt.checksums import crc32c, crc64nvme

from job.errors import JobError
from job.storage import ObjectInfo, join
from job.storage.carried import is_whole
from job.storage.files import ChangedObjectError, DamagedObjectError
from job.storage.s3.checksums import promise_of
from job.storage.s3.uris import bucket_and_key
from job.storage.transfer import fetch_checked
from tests.http_fault_proxy import Break, Flip, always, in_turn
from tests.lora_job import ROOT
from tests.s3_server import S3Server

DATA = bytes(range(250)) * 4


@pytest.fixture
def theirs(s3_admin: S3Server, s3_folder: str):
    """Store an object as other programs do; `in_parts` gives it an ETag that is no MD5. Gives it as it is listed."""
    client = s3_admin.client()
    client.meta.events.register("before-call.s3", lambda params, **_: _without_checksums(params["headers"]))

    def store(data: bytes, name: str = "object", *, in_parts: bool = False) -> ObjectInfo:
        uri = join(s3_folder, name)
        bucket, key = bucket_and_key(uri)
        place = {"Bucket": bucket, "Key": key}
        if in_parts:
            upload = {**place, "UploadId": client.create_multipart_upload(**place)["UploadId"]}
            etag = client.upload_part(**upload, PartNumber=1, Body=data)["ETag"]
            parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
            client.complete_multipart_upload(**upload, MultipartUpload=parts)
        else:
            client.put_object(**place, Body=data)
        return ObjectInfo(uri, len(data), client.head_object(**place)["ETag"].strip('"'))

    return store


def _without_checksums(headers: dict[str, str]) -> None:
    for name in [name for name in headers if name.lower().startswith("x-amz-checksum-")]:
        del headers[name]


def test_a_flipped_bit_is_fetched_again(theirs, through, tmp_path):
    info = theirs(DATA)
    faulty = through(in_turn([Flip("answer", 500), None, Flip("answer", 500)], "GET"))
    digest = faulty.storage.download(info.uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert digest.verified_by is not None
    assert faulty.storage.read(info.uri) == DATA
    assert len(faulty.proxy.requests) == 4


def test_a_bit_that_is_always_flipped_is_told_and_leaves_nothing(theirs, through, tmp_path):
    info = theirs(DATA)
    faulty = through(always(Flip("answer", 500), "GET"))
    with pytest.raises(DamagedObjectError, match=info.uri):
        faulty.storage.download(info.uri, tmp_path / "file")
    assert [*tmp_path.iterdir()] == []


def test_a_flip_after_a_break_is_found(theirs, through, tmp_path):
    info = theirs(DATA)
    faulty = through(in_turn([Break(100, "close"), Flip("answer", 7)], "GET"))
    faulty.storage.download(info.uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA


def test_an_object_that_changed_since_it_was_listed_is_named(theirs, direct, tmp_path):
    info = theirs(DATA)
    theirs(DATA[::-1])
    with pytest.raises(ChangedObjectError, match=info.uri):
        direct.storage.download(info.uri, tmp_path / "file", etag=info.etag)
    assert [*tmp_path.iterdir()] == []


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("a.bmp", random.Random(3).randbytes(5000))
    return file.getvalue()


@pytest.mark.parametrize(("name", "data"), [("a.zip", _zip()), ("a.tar.gz", gzip.compress(DATA))], ids=["zip", "gzip"])
def test_what_the_store_promises_nothing_of_is_verified_by_what_it_carries(theirs, through, tmp_path, name, data):
    info = theirs(data, name, in_parts=True)
    flip = Flip("answer", len(data) // 2)
    faulty = through(in_turn([flip], "GET"))
    assert fetch_checked(faulty.storage, info, tmp_path / name).verified_by is not None
    assert (tmp_path / name).read_bytes() == data
    damaged = [Flip("answer", len(data) // 2 + at) for at in range(2)]  # not the same bytes twice
    with pytest.raises(JobError, match="damaged twice"):
        fetch_checked(through(in_turn(damaged, "GET")).storage, info, tmp_path / name)
    # The very same bytes twice are what is stored: whoever unpacks them says what is wrong.
    assert fetch_checked(through(always(flip, "GET")).storage, info, tmp_path / name).size == len(data)


def test_what_nothing_verifies_is_said_to_be_so(theirs, direct, tmp_path):
    info = theirs(DATA, "a.safetensors", in_parts=True)
    assert fetch_checked(direct.storage, info, tmp_path / "file").verified_by is None


MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
SHA256 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
CRC32 = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()
CRC32C = base64.b64encode(crc32c(DATA).to_bytes(4, "big")).decode()
CRC64NVME = base64.b64encode(crc64nvme(DATA).to_bytes(8, "big")).decode()


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"ETag": f'"{MD5}"'}, "MD5"),
        ({"ETag": f'W/"{MD5}"'}, "MD5"),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "AES256"}, "MD5"),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms"}, None),
        ({"ETag": f'"{MD5}"', "ServerSideEncryption": "aws:kms:dsse"}, None),
        ({"ETag": f'"{MD5}"', "SSECustomerAlgorithm": "AES256"}, None),
        ({"ETag": f'"{MD5}-2"'}, None),
        ({"ETag": '"opaque"'}, None),
        ({"ETag": f'"{MD5}"', "ChecksumCRC32": CRC32}, "CRC32"),
        ({"ETag": f'"{MD5}-2"', "ChecksumCRC32": CRC32, "ChecksumType": "FULL_OBJECT"}, "CRC32"),
        ({"ETag": f'"{MD5}-2"', "ChecksumCRC32": f"{CRC32}-2", "ChecksumType": "COMPOSITE"}, None),
        ({"ETag": f'"{MD5}-2"', "ChecksumCRC32": f"{CRC32}-2"}, None),
        ({"ETag": f'"{MD5}"', "ChecksumSHA256": SHA256, "ChecksumCRC32": CRC32}, "SHA-256"),
        ({"ETag": f'"{MD5}"', "ChecksumSHA256": "nonsense"}, "MD5"),
        ({"ETag": f'"{MD5}-2"', "ChecksumCRC64NVME": CRC64NVME, "ChecksumType": "FULL_OBJECT"}, "CRC64NVME"),
        ({"ETag": f'"{MD5}"', "ChecksumCRC32C": CRC32C, "ChecksumCRC32": "AAAAAA=="}, "CRC32C"),
        ({"ETag": f'"{MD5}-2"', "ChecksumCRC32C": f"{CRC32C}-2", "ChecksumType": "COMPOSITE"}, None),
        ({"ETag": f'"{MD5}"', "ChecksumCRC64NVME": CRC32C}, "MD5"),
    ],
)
def test_which_promise_is_checked(answer, name):
    promise = promise_of(answer, "bucket")
    assert (promise and promise.name) == name
    if promise is not None:
        promise.hash.update(DATA[:7])
        assert not promise.is_kept()
        promise.hash.update(DATA[7:])
        assert promise.is_kept()


@pytest.mark.parametrize(
    ("field", "data", "value"),
    [
        ("ChecksumCRC32", b"123456789", "cbf43926"),
        ("ChecksumCRC32C", b"123456789", "e3069283"),
        ("ChecksumCRC64NVME", b"123456789", "ae8b14860a799888"),
        ("ChecksumXXHASH64", b"a", "d24ec4f1a98c6e5b"),
        ("ChecksumXXHASH3", b"", "2d06800538d394c2"),
        ("ChecksumXXHASH128", b"", "99aa06d3014798d86001c324468d497f"),
        ("ChecksumMD5", b"", "d41d8cd98f00b204e9800998ecf8427e"),
        ("ChecksumSHA512", b"abc", hashlib.sha512(b"abc").hexdigest()),
    ],
)
def test_a_checksum_has_its_published_value(field: str, data: bytes, value: str) -> None:
    promise = promise_of({field: base64.b64encode(bytes.fromhex(value)).decode()}, "bucket")
    assert promise is not None
    for at in range(len(data)):
        assert not promise.is_kept()
        promise.hash.update(data[at : at + 1])
    assert promise.is_kept()


@pytest.mark.parametrize(("algorithm", "value"), [("CRC32C", CRC32C), ("CRC64NVME", CRC64NVME)])
def test_what_came_in_parts_is_verified_by_the_checksum_of_the_whole(
    s3_admin: S3Server, s3_folder: str, through, tmp_path: Path, algorithm: str, value: str
) -> None:
    """So AWS keeps CRC64NVME by itself, and CRC32C where a program asks for it; the ETag is no MD5 then."""
    info = ObjectInfo(join(s3_folder, algorithm), len(DATA), "")
    bucket, key = bucket_and_key(info.uri)
    client, place, checksum = s3_admin.client(), {"Bucket": bucket, "Key": key}, {f"Checksum{algorithm}": value}
    whole = {"ChecksumType": "FULL_OBJECT"}
    started = client.create_multipart_upload(**place, **whole, ChecksumAlgorithm=algorithm)
    upload = {**place, "UploadId": started["UploadId"]}
    etag = client.upload_part(**upload, PartNumber=1, Body=DATA, **checksum)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag, **checksum}]}
    client.complete_multipart_upload(**upload, **whole, **checksum, MultipartUpload=parts)
    faulty = through(in_turn([Flip("answer", 500)], "GET"))
    assert faulty.storage.download(info.uri, tmp_path / "file").verified_by == algorithm
    assert (tmp_path / "file").read_bytes() == DATA


def test_requests_are_signed_as_without_the_library_of_checksums() -> None:
    """Its errors are no botocore's: a key that is an empty text in a file of credentials would end with a traceback."""
    asked = "import job.storage.s3.store, botocore.compat; print(botocore.compat.HAS_CRT)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("BOTO_DISABLE_CRT", None)
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"


def test_etags_of_a_directory_bucket_are_no_md5():
    assert promise_of({"ETag": f'"{MD5}"'}, "data--use1-az4--x-s3") is None


def test_a_bomb_is_not_unpacked_to_check_it(tmp_path: Path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2**28 + 1), 1))
    assert is_whole(tmp_path / "bomb.gz") is None
    (tmp_path / "not.zip").write_bytes(DATA)
    assert is_whole(tmp_path / "not.zip") is False


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_not_whole_however_it_is_packed(tmp_path: Path, method: int):
    chance, path = random.Random(11), tmp_path / "a.zip"
    print("seed 11")
    content = chance.randbytes(200) + bytes(300)
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("a.bmp", content)
    whole = path.read_bytes()
    assert is_whole(path)
    for _ in range(300):
        data, at = bytearray(whole), chance.randrange(len(whole))
        data[at : at + 4] = chance.choice([bytes([data[at] ^ 1 << chance.randrange(8)]), chance.randbytes(4)])
        path.write_bytes(data)
        if is_whole(path):  # the last bits of some streams, dates and names are under no checksum
            with zipfile.ZipFile(path) as packed:
                assert [packed.read(member) for member in packed.infolist()] == [content]

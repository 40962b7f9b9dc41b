"""A large object on a slow link is heard of long before it is whole; a small one never is."""

import time

import pytest

from job.storage import join
from job.storage.s3.pulse import PULSE_BYTES
from tests.http_fault_proxy import Throttle, always
from tests.moments import all_the_time

SECONDS = 3
LARGE_BYTES = 12 * 2**20  # several times what the system's own buffers take at once
OPERATIONS = {
    "download": lambda storage, uri, file: storage.download(uri, file),
    "read": lambda storage, uri, _: storage.read(uri),
    "upload": lambda storage, uri, file: storage.upload(file, uri),
    "write": lambda storage, uri, file: storage.write(uri, file.read_bytes()),
    "write_if": lambda storage, uri, file: storage.write_if(f"{uri}-new", file.read_bytes(), None),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_slow_object_is_heard_of_all_the_time(direct, through, tmp_path, name):
    uri, file, heard = join(direct.root, "object"), tmp_path / "file", []
    file.write_bytes(bytes(LARGE_BYTES))
    direct.storage.upload(file, uri)
    plan = always(Throttle(LARGE_BYTES // SECONDS), "GET|PUT")
    patience = {"read_timeout_seconds": 30, "part_bytes": LARGE_BYTES + 1}
    storage = through(plan, lambda: heard.append(time.monotonic()), **patience).storage
    times = [time.monotonic()]
    OPERATIONS[name](storage, uri, file)
    times += [*heard, time.monotonic()]
    assert times[-1] - times[0] > SECONDS / 2
    assert all_the_time(times)
    assert len(heard) >= LARGE_BYTES // PULSE_BYTES // 2


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_small_object_is_no_sign_of_life(direct, through, tmp_path, name):
    """Or a lease, which is renewed beside the work, would hide that the work hangs."""
    uri, file, heard = join(direct.root, "object"), tmp_path / "file", []
    file.write_bytes(bytes(PULSE_BYTES - 1))
    direct.storage.upload(file, uri)
    OPERATIONS[name](through(lambda _: None, lambda: heard.append(1)).storage, uri, file)
    assert heard == []

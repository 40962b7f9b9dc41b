"""A run needs the rights that `deploy/iam-policy.json` gives, all of them, and no others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.http_fault_proxy import HttpFaultProxy, Request
from tests.job.small_run import arguments, drawings
from tests.lora_job import ROOT, lora_job
from tests.s3_server import STUDY_DATA, STUDY_RUNS, Keys, S3Server

BUCKETS = {"DATA_BUCKET": STUDY_DATA, "RUNS_BUCKET": STUDY_RUNS}


def action_of(request: Request) -> tuple[str, str]:
    """The bucket, and what IAM calls that right: docs.aws.amazon.com, 'Actions ... for Amazon S3'."""
    bucket, _, key = request.path.removeprefix("/").partition("/")
    parameters = {part.partition("=")[0] for part in request.query.split("&")}
    if not key:
        return bucket, {"GET": "s3:ListBucket", "HEAD": "s3:ListBucket"}[request.method]
    if request.method == "DELETE" and "uploadId" in parameters:
        return bucket, "s3:AbortMultipartUpload"
    rights = {
        "GET": "GetObject",
        "HEAD": "GetObject",
        "PUT": "PutObject",
        "POST": "PutObject",
        "DELETE": "DeleteObject",
    }
    return bucket, f"s3:{rights[request.method]}"


def policy() -> set[tuple[str, str]]:
    """Every bucket and right of the shipped policy."""
    granted = set()
    for statement in json.loads((ROOT / "deploy" / "iam-policy.json").read_text())["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for resource in statement["Resource"]:
            bucket, slash, rest = resource.removeprefix("arn:aws:s3:::").partition("/")
            assert all((action == "s3:ListBucket") == (not slash) for action in actions), (
                "of a bucket, or of its objects"
            )
            assert rest in ("", "*")
            granted |= {(BUCKETS[bucket], action) for action in actions}
    return granted


@pytest.fixture(scope="module")
def server(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> S3Server:
    """The store with the study's two buckets, and twelve drawings in the one for data."""
    client = s3_server.client()
    for name in (STUDY_DATA, STUDY_RUNS):
        try:
            client.create_bucket(Bucket=name)
        except ClientError as error:
            assert "BucketAlready" in str(error)  # noqa: PT017 - of another module
    for path in drawings(tmp_path_factory.mktemp("data") / "drawings").iterdir():
        client.upload_file(str(path), STUDY_DATA, f"drawings/{path.name}")
    return s3_server


def command(miniature: Path, tmp_path: Path, endpoint: str, *lines: str) -> list[str | Path]:
    storage = f"storage={{endpoint_url: '{endpoint}', region: us-east-1, addressing_style: path}}"
    places = (f"dataset.source=s3://{STUDY_DATA}/drawings", f"output.destination=s3://{STUDY_RUNS}/{tmp_path.name}")
    return ["run", *arguments(miniature, tmp_path, storage, *places, *lines), "--workdir", tmp_path / "work"]


@pytest.mark.slow
def test_the_policy_gives_what_a_run_asks_for_and_no_more(
    miniature: Path, tmp_path: Path, server: S3Server, use_keys: Callable[[Keys], None]
) -> None:
    use_keys(server.job)
    manifest = tmp_path / "m.yaml"
    with HttpFaultProxy(server.port) as proxy:
        done = lora_job(*command(miniature, tmp_path, proxy.url, "output.keep_checkpoints=2", "evaluation.every=1"))
        assert done.returncode == 0, done.stderr
        run = f"s3://{STUDY_RUNS}/{tmp_path.name}/small"
        env = {"AWS_ENDPOINT_URL": proxy.url}
        for arguments in (("collect", run, tmp_path / "there"), ("status", run), ("report", run)):
            assert lora_job(*arguments, env=env).returncode == 0
        manifest.write_text("not a manifest")
        server.client().upload_file(str(manifest), STUDY_DATA, "manifests/m.yaml")
        assert lora_job("validate", f"s3://{STUDY_DATA}/manifests/m.yaml", "--offline", env=env).returncode == 40
    asked = {action_of(request) for request, _ in proxy.requests}
    in_parts = {(STUDY_RUNS, "s3:AbortMultipartUpload")}  # of a large file whose upload is given up
    assert asked | in_parts == policy()


@pytest.mark.parametrize(("identity", "verb"), [("read_only", "s3:PutObject"), ("write_only", "s3:GetObject")])
def test_what_is_missing_is_named_before_anything_is_computed(
    miniature: Path, tmp_path: Path, server: S3Server, use_keys: Callable[[Keys], None], identity: str, verb: str
) -> None:
    use_keys(getattr(server, identity))
    done = lora_job(*command(miniature, tmp_path, server.endpoint_url))
    assert done.returncode == 42, done.stderr
    assert verb in done.stderr.splitlines()[-1]
    assert "stage started" not in done.stderr


def test_a_policy_without_the_dataset_is_named(
    miniature: Path, tmp_path: Path, server: S3Server, use_keys: Callable[[Keys], None]
) -> None:
    use_keys(server.job)
    elsewhere = server.make_bucket()
    done = lora_job(*command(miniature, tmp_path, server.endpoint_url, f"dataset.source=s3://{elsewhere}/drawings"))
    assert done.returncode == 42, done.stderr
    assert elsewhere in done.stderr.splitlines()[-1]

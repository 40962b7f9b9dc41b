"""Every document is the one that was looked at, and the platform's own schema takes it."""

import json
import shlex
from typing import Any

import botocore.session
import kubernetes_validate
import pytest
import yaml
from botocore.validate import ParamValidator
from google.cloud import batch_v1

from tests.job.deploy.rendering import CASES, golden_path, render_case

KUBERNETES = [name for name in CASES if name.startswith("kubernetes")]
AWS_BATCH = [name for name in CASES if name.startswith("aws-batch")]
GCP_BATCH = [name for name in CASES if name.startswith("gcp-batch")]


@pytest.mark.parametrize("name", CASES)
def test_the_document_is_the_golden_one(name: str) -> None:
    rendered = render_case(CASES[name])
    assert rendered.code == 0, rendered.said
    again = "look at the difference, then run: python -m tests.job.deploy.rendering"
    assert rendered.document == golden_path(name).read_text(), again


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.stem for path in golden_path("any").parent.iterdir()} == set(CASES)


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_takes_every_document(name: str, version: str) -> None:
    for document in yaml.safe_load_all(golden_path(name).read_text()):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.fixture(scope="module")
def aws_batch() -> Any:
    return botocore.session.get_session().get_service_model("batch")


def check_input(model: Any, operation: str, parameters: dict[str, Any]) -> None:
    report = ParamValidator().validate(parameters, model.operation_model(operation).input_shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", AWS_BATCH)
def test_aws_batch_takes_every_definition(name: str, aws_batch: Any) -> None:
    definition = json.loads(golden_path(name).read_text())
    check_input(aws_batch, "RegisterJobDefinition", definition)
    # what the validator does not look at
    assert definition["type"] in aws_batch.shape_for("JobDefinitionType").enum
    assert set(definition["platformCapabilities"]) <= set(aws_batch.shape_for("PlatformCapability").enum)
    kinds = [resource["type"] for resource in definition["containerProperties"]["resourceRequirements"]]
    assert set(kinds) <= set(aws_batch.shape_for("ResourceType").enum)
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("name", AWS_BATCH)
def test_aws_batch_takes_every_submission(name: str, aws_batch: Any) -> None:
    register, submit = render_case(CASES[name]).commands
    assert register == "aws batch register-job-definition --cli-input-json file://job-definition.json"
    program, service, operation, *options = shlex.split(submit)
    assert (program, service, operation) == ("aws", "batch", "submit-job")
    parameters = {parameter(option): value for option, value in zip(options[::2], options[1::2], strict=True)}
    if "arrayProperties" in parameters:
        key, size = str(parameters["arrayProperties"]).split("=")
        parameters["arrayProperties"] = {key: int(size)}
    check_input(aws_batch, "SubmitJob", parameters)


def parameter(option: str) -> str:
    """`--job-name` as the service calls it: jobName."""
    first, *others = option.removeprefix("--").split("-")
    return first + "".join(word.title() for word in others)


@pytest.mark.parametrize("name", GCP_BATCH)
def test_gcp_batch_takes_every_job(name: str) -> None:
    job = batch_v1.Job.from_json(golden_path(name).read_text(), ignore_unknown_fields=False)
    (group,) = job.task_groups
    assert (group.task_count, group.parallelism) == ({"per-variant": 2, "every-option": 4}.get(name[10:], 1),) * 2
    assert group.task_spec.runnables[0].container.image_uri == "registry.example/team/lora-job:0.1.0"

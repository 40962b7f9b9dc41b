"""The settings of optimizers, as manifests and stored JSON have them."""

import json

import pytest
from pydantic import ValidationError

from lora_engine.config.optimizer import AdamWConfig, ProdigyConfig
from tests.lora_engine.training.optimizers.rows import CONFIGS, MEMBERS

STORED = {"name": "adamw", "learning_rate": 2e-4, "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-7}


def test_without_a_name_it_is_adamw() -> None:
    assert CONFIGS.validate_json('{"learning_rate": 2e-4}') == AdamWConfig(learning_rate=2e-4)
    assert CONFIGS.validate_json("{}") == AdamWConfig()
    assert CONFIGS.validate_python(AdamWConfig(beta1=0.5)) == AdamWConfig(beta1=0.5)
    with pytest.raises(ValidationError, match="momentum"):
        CONFIGS.validate_json('{"momentum": 0.9}')


def test_what_earlier_versions_stored_is_read_and_written_alike() -> None:
    assert CONFIGS.dump_python(CONFIGS.validate_json(json.dumps(STORED)), mode="json") == STORED


@pytest.mark.parametrize("name", MEMBERS)
def test_a_name_alone_will_do_and_is_read_again(name: str) -> None:
    config = CONFIGS.validate_python({"name": name})
    assert type(config) is MEMBERS[name]
    assert CONFIGS.validate_json(CONFIGS.dump_json(config)) == config
    assert all(field.description for key, field in MEMBERS[name].model_fields.items() if key != "name")


def test_prodigy_s_learning_rate_is_1() -> None:
    assert ProdigyConfig(name="prodigy").learning_rate == 1.0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("adamw8bit", "adamw"),
        ("AdamW8bit", "adamw"),
        ("ADAMW_8BIT", "adamw"),
        ("PagedAdamW8bit", "adamw"),
        ("Lion8bit", "lion"),
        ("SGDNesterov8bit", "sgd"),
    ],
)
def test_eight_bits_are_answered_with_the_whole_and_why(name: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"name: {meant} in place of {name}: .*8 bits would save"):
        CONFIGS.validate_json(json.dumps({"name": name, "learning_rate": 1e-4}))


@pytest.mark.parametrize("name", ["dadaptation", 3, None, ["adamw"]])
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(ValidationError, match=r"adamw.*lion.*prodigy.*schedule_free_adamw.*sgd"):
        CONFIGS.validate_json(json.dumps({"name": name}))
    with pytest.raises(ValidationError):
        CONFIGS.validate_json(json.dumps(name))

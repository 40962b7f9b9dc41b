"""The locks hold what pyproject.toml asks for, in the versions of constraints.txt."""

import tomllib
from collections.abc import Iterable
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.lora_job import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
AGAIN = "run scripts/lock"


def locked(name: str) -> list[Requirement]:
    """The requirements of a lock; each has hashes."""
    entries = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    lines = [line for line in entries if not line.startswith("#")]
    assert all("--hash=sha256:" in line for line in lines)
    return [Requirement(line.partition(" --hash")[0]) for line in lines]


def pins(requirements: Iterable[Requirement]) -> dict[str, Version]:
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in requirements}


def constraints() -> dict[str, Version]:
    return pins(Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines())


def installed_closure(wanted: list[Requirement]) -> set[str]:
    """The names of all packages that these bring here."""
    found: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key not in found:
                found.add(key)
                parts = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
                wanted += [part for part in parts if part.marker is None or part.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@pytest.mark.parametrize("name", ["cpu", "cuda", "build"])
def test_a_lock_has_the_versions_of_the_constraints(name: str) -> None:
    expected = constraints()
    for package, version in pins(locked(name)).items():
        assert expected.get(package, version).public == version.public, AGAIN


@pytest.mark.parametrize(
    ("name", "asked"),
    [(name, PROJECT["project"]["dependencies"]) for name in ("cpu", "cuda")]
    + [("build", [*PROJECT["dependency-groups"]["image"], *PROJECT["build-system"]["requires"]])],
)
def test_a_lock_holds_what_the_project_asks_for(name: str, asked: list[str]) -> None:
    versions = pins(locked(name))
    for requirement in map(Requirement, asked):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, AGAIN


def test_the_lock_of_this_machine_s_torch_is_what_is_installed_no_more_and_no_less() -> None:
    name = "cpu" if Version(metadata.version("torch")).local == "cpu" else "cuda"
    here = [r for r in locked(name) if r.marker is None or r.marker.evaluate()]
    assert set(pins(here)) == installed_closure([*map(Requirement, PROJECT["project"]["dependencies"])]), AGAIN


def test_the_variants_differ_in_torch_and_what_it_brings() -> None:
    cpu, cuda = pins(locked("cpu")), pins(locked("cuda"))
    assert cpu["torch"].local == "cpu"
    assert cuda["torch"].local is None
    assert {package: v for package, v in cpu.items() if package != "torch"}.items() <= cuda.items()
    assert all(package.startswith(("nvidia-", "cuda-", "triton")) for package in cuda.keys() - cpu.keys())

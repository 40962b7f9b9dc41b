"""Whether the tests notice what would harm a user: each fault is planted in a copy, and the tests named for it run."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.faults.faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
# What the tests read. The engine, which is large and in which nothing is planted, is linked.
COPIED = ("job", "tests", "scripts", "fuzz", "manifests", "deploy", "docs", "pyproject.toml")
LINKED = "lora_engine"
SECONDS = 600


def test_every_fault_fits_the_program_and_names_tests_that_exist() -> None:
    assert len({fault.id for fault in FAULTS}) == len(FAULTS) >= 20
    for fault in FAULTS:
        assert fault.file.startswith("job/")
        assert (ROOT / fault.file).read_text().count(fault.before) == 1, fault.id
        assert fault.before != fault.after
        ast.parse(planted(fault))
        assert fault.tests
        for test in fault.tests:
            file, _, name = test.partition("::")
            functions = {node.name for node in ast.parse((ROOT / file).read_text()).body if hasattr(node, "name")}
            assert name.partition("[")[0] in functions, (fault.id, test)


def planted(fault: Fault) -> str:
    """The fault's file with the fault in it."""
    return (ROOT / fault.file).read_text().replace(fault.before, fault.after)


def copied(folder: Path) -> Path:
    """The tree as the tests need it."""
    tree = folder / "tree"
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        else:
            shutil.copy(ROOT / name, tree / name)
    (tree / LINKED).symlink_to(ROOT / LINKED)
    return tree


def run_tests(tree: Path, *tests: str) -> tuple["subprocess.CompletedProcess[str]", list[ET.Element]]:
    """How they end there, and what becomes of each."""
    found = tree.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={found}", *tests]
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=SECONDS)
    return done, ET.parse(found).findall(".//testcase") if found.exists() else []


def name_of(case: ET.Element) -> str:
    """The id of the test that it is a case of, as pytest takes it."""
    return f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"


@pytest.mark.slow
def test_the_tests_named_pass_without_a_fault(tmp_path: Path) -> None:
    """Or they would notice nothing."""
    done, cases = run_tests(copied(tmp_path), *dict.fromkeys(test for fault in FAULTS for test in fault.tests))
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert not [case for case in cases if case.find("skipped") is not None], done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_is_noticed(tmp_path: Path, fault: Fault) -> None:
    tree = copied(tmp_path)
    (tree / fault.file).write_text(planted(fault))
    done, cases = run_tests(tree, *fault.tests)
    # 1 says that tests failed; others, that they could not be collected, and would fail with any change
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    failed = [name_of(case) for case in cases if case.find("failure") is not None]
    for test in fault.tests:
        assert [name for name in failed if name == test or name.startswith(f"{test}[")], (test, done.stdout)
    assert not [case for case in cases if case.find("error") is not None], done.stdout

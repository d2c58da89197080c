"""Dependencies: floors and pins agree, known holes are not allowed, an audit says what it did."""

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bench import audit, lowest

PROJECT = tomllib.loads(lowest.PYPROJECT.read_text("utf-8"))["project"]
DIRECT = {canonicalize_name(r.name): r for r in map(Requirement, lowest.requirements(PROJECT))}


def versions(lines: list[str]) -> dict[str, str]:
    """Versions by normalised name, of lines such as ``name==version``."""
    return {canonicalize_name(name): version for name, version in (s.split("==") for s in lines)}


FLOORS = versions(lowest.constraints(lowest.PYPROJECT.read_text("utf-8")))
PINS = versions(audit.PINNED.read_text("utf-8").split())


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("torch>=2.10", "torch==2.10"),
        ("mkdocs<2,>=1.6", "mkdocs==1.6"),
        ("fsspec[http]>=2024.2", "fsspec==2024.2"),
        ("Some_Name[a,b-c] >= 1.0rc1 ; python_version < '3.12'", "Some_Name==1.0rc1"),
    ],
)
def test_floor(requirement: str, expected: str) -> None:
    assert lowest.floor(requirement) == expected


@pytest.mark.parametrize("requirement", ["torch", "mkdocs<2", "numpy==2.0", "a; extra >= '1'"])
def test_a_requirement_without_a_floor_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="has no lowest version"):
        lowest.floor(requirement)


def test_requirements_are_those_of_the_package_and_every_extra() -> None:
    project = {
        "name": "house",
        "dependencies": ["brick>=1"],
        "optional-dependencies": {"door": ["wood>=2"], "dev": ["house[door]", "saw>=3"]},
    }
    assert lowest.requirements(project) == ["brick>=1", "wood>=2", "saw>=3"]


def test_every_floor_is_allowed_and_no_package_has_two() -> None:
    assert len(DIRECT) == len(lowest.requirements(PROJECT)) == len(FLOORS)
    for name, requirement in DIRECT.items():
        assert requirement.specifier.contains(FLOORS[name]), requirement


def test_pins_are_allowed_and_cover_what_dev_installs() -> None:
    unpinned = DIRECT.keys() - PINS.keys()
    assert unpinned == {
        "atheris",
        "opencv-python-headless",
        "segmentation-models-pytorch",
    }  # of the extras fuzz and bench
    for name in DIRECT.keys() & PINS.keys():
        assert DIRECT[name].specifier.contains(PINS[name]), (DIRECT[name], PINS[name])


@pytest.mark.parametrize("chosen", [FLOORS, PINS], ids=["floors", "pins"])
def test_torch_and_torchvision_are_of_one_release(chosen: dict[str, str]) -> None:
    torch, torchvision = Version(chosen["torch"]), Version(chosen["torchvision"])
    assert (torch.major, torchvision.major) == (2, 0)
    assert torch.minor + 15 == torchvision.minor  # 2.10 with 0.25


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("av", "17.1.0"),
        ("lightning", "2.6.2"),
        ("lightning", "2.6.3"),
        ("lightning", "2.6.5"),
        ("mkdocs", "2.0"),
        ("mkdocs-material", "9.7.6"),
        ("onnx", "1.20.1"),
        ("opencv-python-headless", "4.11.0.86"),
        ("pillow", "12.2.0"),
        ("pymdown-extensions", "11.0.0"),
        ("pytest", "9.0.2"),
        ("torch", "2.9.1"),
    ],
)
def test_versions_with_known_holes_are_not_allowed(name: str, version: str) -> None:
    assert not DIRECT[name].specifier.contains(version)


def package(name: str, *found: tuple[str, list[str]]) -> dict[str, Any]:
    """A package of an audit's report, with its vulnerabilities and their fixed versions."""
    vulnerabilities = [{"id": name, "fix_versions": fixed} for name, fixed in found]
    return {"name": name, "version": "1.0", "vulns": vulnerabilities}


UNKNOWN = {"name": "brick", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        ([package("saw"), package("wood")], 0, ["2 packages, nothing known"]),
        (
            [package("saw", ("CVE-1", ["1.1", "2.0"]), ("CVE-2", [])), package("wood")],
            1,
            ["saw 1.0: CVE-1, fixed in 1.1, 2.0", "saw 1.0: CVE-2, fixed in no version"],
        ),
        ([package("saw"), UNKNOWN], 1, ["not found by the service: brick"]),
        ([UNKNOWN, UNKNOWN], 2, ["not audited: the service found none of 2 packages"]),
    ],
)
def test_verdict(packages: list[dict[str, Any]], code: int, lines: list[str]) -> None:
    assert audit.verdict({"dependencies": packages, "fixes": []}) == (code, lines)


def test_an_audit_without_its_service_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    assert audit.main() == 2
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1:3] for line in printed] == [
        ["constraints.txt", "not audited"],
        ["lowest versions", "not audited"],
    ]


def test_accepted_advisories_are_explained() -> None:
    decision = lowest.PYPROJECT.parent / "docs" / "decisions" / "0012-floors.md"
    assert set(audit.ACCEPTED) <= set(re.findall(r"CVE-\d+-\d+", decision.read_text("utf-8")))


def test_metadata_name_no_address_and_no_person() -> None:
    assert not {"urls", "authors", "maintainers"} & PROJECT.keys()
    assert "://" not in str(PROJECT)
    assert "@" not in str(PROJECT)

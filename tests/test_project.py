"""The project's metadata agree with the code: citation, workflow, hooks before a commit, forms."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import scenewise

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read(path: str | Path) -> Any:
    """A YAML file of the repository."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_citation_names_this_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = read("CITATION.cff")
    assert citation["version"] == scenewise.__version__
    assert citation["license"] == project["license"]
    assert citation["title"].lower() == project["name"]
    required = {"cff-version", "message", "title", "authors"}
    assert required <= set(citation)


def test_workflow_runs_the_script_on_the_oldest_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    workflow = read(".github/workflows/ci.yml")
    steps = workflow["jobs"]["ci"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (python,) = [step["with"]["python-version"] for step in steps if "setup-python" in str(step)]
    assert project["requires-python"] == f">={python}"


def test_hooks_before_a_commit_are_the_tools_of_make_check() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {" ".join(hook["entry"].split()[:2]) for hook in repository["hooks"]}
    checked = {line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()}
    assert hooks == {" ".join(line.split()[:2]) for line in checked}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_forms_have_what_the_host_requires(form: Path) -> None:
    content = read(form)
    assert {"name", "description", "body"} <= set(content)
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(names) == len(set(names)) > 0
    assert all(field["attributes"]["label"] for field in fields)


def test_there_are_forms_for_bugs_and_for_features() -> None:
    assert [form.stem for form in FORMS] == ["bug_report", "feature_request"]
    assert read(".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": True}

"""What the documents say is so: code blocks run, links lead somewhere, tables match the code."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    ROOT / "deploy" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_index_leads_to_every_page_and_readme_to_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


def test_every_file_that_the_architecture_names_is_there():
    rows = [
        line.rpartition(" | ")[2]
        for line in (ROOT / "docs" / "architecture.md").read_text().splitlines()
        if line.startswith("| ") and line.count(" | ") in {1, 2}
    ]
    named = 0
    for row in rows:
        folder = ROOT
        for name in re.findall(r"`([\w./]+(?:/|\.py|\.lua))`", row):
            found = next((at for at in (ROOT / name, folder / name) if at.exists()), None)
            assert found is not None, f"{name} in {row}"
            folder, named = found if found.is_dir() else found.parent, named + 1
    assert named > 50


def test_every_extra_that_readme_installs_is_one():
    table = (ROOT / "README.md").read_text().partition("## Install")[2].partition("\n## ")[0]
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert set(re.findall(r'`"\.\[(\w+)\]"`', table)) == extras


def test_the_operators_page_has_every_call_as_it_is():
    import inspect

    from headrace import Admin

    page = (ROOT / "docs" / "admin.md").read_text()
    named = re.findall(r"^\| `(\w+)\((.*?)\)` \|", page, re.MULTILINE)
    calls = inspect.getmembers(Admin, inspect.isfunction)
    assert sorted((name, re.findall(r"(\w+)(?:=[\w.\"]+)?(?:, |$)", taken)) for name, taken in named) == [
        (name, [*inspect.signature(call).parameters][1:]) for name, call in calls if not name.startswith("_")
    ]


def test_every_route_of_the_gateway_is_on_its_page_and_every_row_names_tests_that_exist():
    from headrace import AsyncClient
    from headrace.producers.gateway.app import create_app
    from headrace.schemas.settings.gateway import GatewaySettings

    page = (ROOT / "docs" / "http.md").read_text()
    nowhere = "redis://127.0.0.1:1"
    paths = create_app(GatewaySettings.load(redis_url=nowhere), AsyncClient(nowhere)).openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    table = page.partition("\n## Routes\n")[2].partition("\n## ")[0]
    shown = set(re.findall(r"`(GET|HEAD|POST|DELETE) (/[^`]*)`", table))
    assert shown == routes | {("GET", "/openapi.json"), ("GET", "/console")}
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    for table in re.findall(r"^\|.* \| test \|\n\| ---.*\n((?:\|.*\n)+)", page, re.MULTILINE):
        for row in table.splitlines():
            named = re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2])
            assert named or re.search(r"\| (the same|those named (there|above)) \|$", row), row
            assert set(named) <= tests, row


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_shown_exists(path):
    from typer.main import get_command

    from headrace.cli import build

    commands = set(get_command(build([])).commands)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(path, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["headrace"]:
                assert words[1] in commands, line
            elif words[:1] == ["make"]:
                assert words[1] in targets, line


def test_readmes_table_of_commands_names_real_ones():
    from typer.main import get_command

    from headrace.cli import build

    commands = set(get_command(build([])).commands)
    table = (ROOT / "README.md").read_text().partition("## Command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`headrace (\w+)", table)) | {
        "queues",
        "workers",
        "tail",
        "status",
        "cancel",
        "up",
    }
    assert named <= commands


def test_the_protocols_tables_match_the_code():
    from headrace.schemas.events import JobState
    from headrace.schemas.keys import DeliveryKeys, Tag
    from headrace.schemas.scripts.advance import AdvanceStatus

    text = (ROOT / "docs" / "protocol.md").read_text()
    for name in (*vars(DeliveryKeys), *vars(Tag)):
        if not name.startswith("_") and name not in {"model", "partition", "namespace", "base"}:
            assert f"`{name}" in text, f"key {name} is not described"
    for path in (ROOT / "schemas" / "scripts").glob("*.lua"):
        assert f"| `{path.stem}` |" in text, f"script {path.stem} is not described"
    for state in JobState:
        assert f"`{state.value}`" in text
    for status in AdvanceStatus:
        assert status.value in text


def test_no_document_or_source_names_a_private_place():
    sources = [path for folder in ("workers", "telemetry") for path in (ROOT / folder).rglob("*.py")]
    for path in (*DOCUMENTS, *sources, *(ROOT / "tools").iterdir()):
        assert not re.search(r"(^|[\s'\"])/(work|root)/", path.read_text()), path


@pytest.mark.parametrize("name", ["worker", "callbacks", "gateway"])
def test_a_units_command_takes_the_options_that_it_gives(name):
    from typer.main import get_command

    from headrace.cli import build

    unit = (ROOT / "deploy" / "systemd" / f"headrace-{name}.service").read_text()
    program, command, *options = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert program.endswith("/headrace")
    known = {flag for option in get_command(build([])).commands[command].params for flag in option.opts}
    assert {option for option in options if option.startswith("--")} <= known


def test_the_gateways_page_has_every_route():
    from headrace import AsyncClient
    from headrace.producers.gateway.app import create_app
    from headrace.schemas.settings.gateway import GatewaySettings

    page = (ROOT / "docs" / "http.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for path, methods in create_app(GatewaySettings(), AsyncClient()).openapi()["paths"].items():
        base = "/".join(path.split("/")[:4] if "chat/" in path else path.split("/")[:3])
        named = [row for row in rows if base in row and all(part in row for part in path.split("/") if part)]
        assert named, path
        assert all(any(method.upper() in row for row in named) for method in methods), path


def test_the_gateways_page_has_every_client_that_is_installed_to_try_it():
    import json

    pins = ROOT / "tests" / "producers" / "gateway" / "clients"
    npm = json.loads((pins / "package.json").read_text())["dependencies"]
    listed = "".join((pins / f"requirements{kind}.txt").read_text() for kind in ("", "-heavy"))
    pinned = [(name, version) for name, version in npm.items() if name not in {"standardwebhooks", "zod"}]
    pinned += re.findall(r"^([\w-]+)(?:\[.*\])?==(.+)$", listed.partition("# What LiteLLM")[0], re.MULTILINE)
    table = (ROOT / "docs" / "http.md").read_text().partition("## Clients that are tried")[2]
    assert len(pinned) == 13
    for name, version in pinned:
        assert any(f"`{name}`" in row and version in row for row in table.splitlines()), (name, version)

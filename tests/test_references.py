"""The pages that are made of the code say what the code says."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def references() -> ModuleType:
    spec = importlib.util.spec_from_file_location("references", ROOT / "tools" / "references.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "settings.md", "fields.md", "errors.md"])
def test_a_reference_is_current(references: ModuleType, page: str) -> None:
    made, kept = references.PAGES[page](), (ROOT / "docs" / page).read_text()
    assert made == kept, f"docs/{page} is not what the code says: run .venv/bin/python tools/references.py"


def test_every_setting_and_every_option_has_a_meaning(references: ModuleType) -> None:
    rows = [
        line for page in references.PAGES.values() for line in page().splitlines() if line.startswith("| `")
    ]
    assert len(rows) > 200
    assert not [row for row in rows if re.search(r"\|\s*\|$", row)]


def test_every_setting_is_on_the_page_of_settings_with_what_it_means() -> None:
    from headrace.schemas.settings.gateway import GatewaySettings
    from headrace.workers.settings import CallbacksSettings, WorkerSettings

    rows = (ROOT / "docs" / "settings.md").read_text().splitlines()
    kinds = (WorkerSettings, CallbacksSettings, GatewaySettings)
    for name in {name for kind in kinds for name in kind.model_fields}:
        described = [row for row in rows if row.startswith(f"| `{name}` |")]
        assert described, name
        assert all(re.search(r"\| ([^|]|\\\|){8,} \|$", row) for row in described), described


def test_every_exit_status_of_an_error_is_described(references: ModuleType) -> None:
    from headrace.schemas.errors import HeadraceError

    assert {error.exit_status for error in references._leaves(HeadraceError)} <= references.STATUSES.keys()

"""A script comes with the libraries that it uses, and no others."""

import re
from pathlib import Path

import pytest

from headrace.schemas import scripts
from headrace.schemas.redis.call import script

FOLDER = Path(scripts.__file__).parent
LIBRARIES = {path.stem: path.read_text() for path in (FOLDER / "lib").glob("*.lua")}
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua"))


def words(lua: str) -> set[str]:
    """The names in it, outside comments and strings."""
    return set(re.findall(r"\b[A-Za-z_]\w*\b", re.sub(r"--.*|'[^']*'", "", lua)))


def defined(lua: str) -> set[str]:
    """What it defines for those that follow."""
    found = re.findall(r"^local (?:function )?(\w+(?:, *\w+)*)", lua, re.MULTILINE)
    return {name for names in found for name in re.split(r", *", names)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_nothing_that_it_does_not_come_with(name):
    source = script(name).source
    for library, lua in LIBRARIES.items():
        if lua not in source:
            own = (FOLDER / f"{name}.lua").read_text()
            assert not (words(source) - defined(own)) & defined(lua), f"{name} uses {library}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_comes_with_each_library_once_behind_those_that_it_uses(name):
    source = script(name).source
    assert source.endswith((FOLDER / f"{name}.lua").read_text())
    known: set[str] = set()
    for uses in re.findall(r"^-- uses: (.+)$", source, re.MULTILINE):
        assert set(uses.split()) <= known | {"base"}
        known |= {library for library, lua in LIBRARIES.items() if f"-- uses: {uses}\n" in lua}
    assert all(source.count(lua) <= 1 for lua in LIBRARIES.values())


def test_scripts_of_deliveries_come_without_what_moves_jobs():
    assert "local function enter_lane" not in script("settle_delivery").source
    assert "local function plan_endpoint" not in script("advance").source


def test_arguments_are_bound_by_what_the_script_declares():
    claim = script("claim")
    binding = next(line for line in claim.source.splitlines() if line.startswith("local worker, nonce"))
    assert claim.args[:3] == ("worker", "nonce", "lease_ms")
    assert "= ARGV[1], ARGV[2], tonumber(ARGV[3])" in binding
    assert binding.endswith(f", {len(claim.args) + 1}")
    assert claim.rest == "classes"


def test_a_call_with_other_arguments_than_the_script_declares_is_refused():
    with pytest.raises(TypeError, match="script cancel takes"):
        script("cancel").call("hr:{m:0}", str, job="j")
    with pytest.raises(TypeError, match="and 1 more"):
        script("cancel").call("hr:{m:0}", str, "rest", id="j", waiting_only=0, error="")

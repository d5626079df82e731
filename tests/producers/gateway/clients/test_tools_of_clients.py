"""Other people's clients with tools and forms of answers, which must get what they asked for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ....support.forkserver import Forkserver
from ....support.tool_models import tool_model

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
]


@pytest.fixture(scope="module", autouse=True)
def tooled(
    stack_redis: "EmbeddedRedis", forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A worker that serves `tooled`, the built-in model with a chat template that shows tools."""
    with tool_model(stack_redis.url, forkserver, tmp_path_factory.mktemp("tools") / "tooled"):
        yield


@pytest.mark.parametrize(
    ("package", "program"),
    [
        ("pydantic_ai", "agents_with_tools"),
        ("instructor", "instructor_modes"),
        ("litellm", "litellm_tools"),
        ("llama_index", "llama_index_tools"),
    ],
)
def test_a_client_gets_the_calls_and_the_form_that_it_asks_for(
    python: Callable[[str], str], run: Callable[..., str], tmp_path: Path, package: str, program: str
) -> None:
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    run(python(package), str(HERE / f"{program}.py"), folder=tmp_path, **offline)

"""Workers whose models have a chat template that shows tools."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import Client
from headrace.schemas import keys
from headrace.schemas.redis.connection import connect
from headrace.workers.models import resolve_model

from . import paced_engine
from .processes import ANY_HOST, running
from .waiting import wait_until

if TYPE_CHECKING:
    from .forkserver import Forkserver

DEMO_TEMPLATE = (
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + ('user' if message.role == 'tool' else message.role) + '|>\n' + (message.content or '') }}"
    "{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""The built-in model's, with tools before the conversation and their results as its user's words."""


@contextmanager
def tool_model(
    redis_url: str,
    forkserver: "Forkserver",
    folder: Path,
    *,
    weights: Path | None = None,
    template: str = DEMO_TEMPLATE,
) -> Iterator[Path]:
    """Serve weights, the built-in model's if none are named, in float32 under the name of a folder.

    Yields the file that slows the worker down while there is one.
    """
    step_s = folder.with_name(f"{folder.name}_step_s")
    folder.mkdir()
    for file in Path(weights or resolve_model("demo")).iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(template)
    run = (ANY_HOST, paced_engine.__file__, "--redis", redis_url, "--model", str(folder))
    flags = ("--device", "cpu", "--dtype", "float32", "--threads", "1", "--lease-s", "2")
    environment = {paced_engine.VARIABLE: str(step_s), "OMP_NUM_THREADS": "1"}
    log = folder.with_name(f"{folder.name}.log")
    with (
        running(*run, *flags, log=log, ends_well=True, forkserver=forkserver, **environment) as host,
        Client(redis_url) as client,
    ):
        wait_until(lambda: any(each.model == folder.name for each in client.workers()) or host.ended)
        assert not host.ended, host.said()[-2000:]
        yield step_s
    with connect(redis_url) as redis:
        redis.hdel(keys.models(), folder.name)

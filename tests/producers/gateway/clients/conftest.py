"""Other people's clients, each in a program of its own that is told where the gateways are."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headrace import Client

from ....support.gateways import gateway

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis

    from ....support.gateways import RunningGateway

ENVIRONMENT = Path(__file__).parents[4] / ".clients"
"""The environment of Python clients that are too heavy for `.venv`; `make clients` makes it."""

APART = ENVIRONMENT / "apart"
"""The environment of those that need other versions of what those need."""

LIMITS = {"SLOW_KEY": {"tokens_per_minute": 600}, "FULL_KEY": {"max_queued_jobs": 1}}
"""What the tenant of a key may have, by the variable that has the key."""


@pytest.fixture
def limited(stack_redis: "EmbeddedRedis") -> Iterator[dict[str, str]]:
    """Variables that name a gateway that wants keys, and keys of two tenants with limits."""
    with (
        gateway(stack_redis.url, gateway_auth=True) as guarded,
        Client(stack_redis.url) as client,
    ):
        variables, made = {"LIMITED_BASE_URL": guarded.base_url}, []
        for name, limits in LIMITS.items():
            tenant = f"{name.lower()}-{secrets.token_hex(4)}"
            client.admin.set_tenant(tenant, **limits)
            made.append(client.admin.create_api_key(tenant))
            variables[name] = made[-1].key.get_secret_value()
        yield variables
        for key in made:
            client.admin.revoke_api_key(key.id)
            client.admin.drop_tenant(key.tenant)


@pytest.fixture
def run(shared_gateway: "RunningGateway", limited: dict[str, str], worker: Path) -> Callable[..., str]:
    """Runs a program to its end, which must be good, and returns what it printed."""

    def run_to_its_end(*command: str, folder: Path, **variables: str) -> str:
        told = {"OPENAI_BASE_URL": shared_gateway.base_url, "OPENAI_API_KEY": "-", **limited, **variables}
        ran = subprocess.run(
            command, cwd=folder, env=os.environ | told, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"[-6000:]
        return ran.stdout

    return run_to_its_end


@pytest.fixture
def python() -> Callable[[str], str]:
    """Gives the Python of the clients' environment, if a package is there."""

    def with_package(package: str) -> str:
        for environment in (ENVIRONMENT, APART):
            if [*environment.glob(f"lib/python*/site-packages/{package}")]:
                return str(environment / "bin" / "python")
        pytest.skip(f"{ENVIRONMENT.name} has no package {package} (make clients)")

    return with_package

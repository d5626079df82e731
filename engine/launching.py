"""Which way of launching steps suits a device."""

from .config import EngineConfig
from .step import PlainLauncher, StepLauncher
from .step_input import Executor


def launcher_for(
    config: EngineConfig, executor: Executor, capacity_tokens: int, eos_token_ids: frozenset[int]
) -> StepLauncher:
    """What launches steps on this device, ready to use."""
    overlap = config.overlap if config.overlap is not None else executor.device.type == "cuda"
    if not overlap:
        return PlainLauncher(executor, config, capacity_tokens, eos_token_ids)
    from .overlapped.step import OverlappedLauncher
    from .overlapped.warm_up import warm_up

    launcher = OverlappedLauncher(executor, config, capacity_tokens, eos_token_ids)
    if executor.device.type == "cuda":
        warm_up(launcher, config.step_tokens)
    return launcher

"""A model that can't run is refused before it is asked for anything."""

import pytest
import torch

from headrace.engine import Engine, EngineConfig, ModelError, self_test


class Broken:
    """An executor whose steps go wrong."""

    def __init__(self, executor, spoil):
        self._executor, self._spoil = executor, spoil
        self.model_info, self.device, self.num_pages = (
            executor.model_info,
            executor.device,
            executor.num_pages,
        )

    def execute(self, step):
        return self._spoil(step, self._executor.execute(step))


def engine_of(make_engine, spoil, **options):
    executor = make_engine(num_pages=64)._executor
    return Engine(EngineConfig(model="any", num_pages=64, overlap=False, **options), Broken(executor, spoil))


def raising(error):
    def spoil(step, logits):
        raise error

    return spoil


@pytest.mark.parametrize("overlap", [False, True])
def test_a_model_that_runs_passes_and_leaves_nothing_behind(make_engine, overlap):
    engine = make_engine(overlap=overlap, num_pages=64)
    self_test(engine)
    engine.check()
    stats = engine.stats()
    assert (engine.has_work, stats.running, stats.pages_held) == (False, 0, 0)


def test_the_smallest_engine_passes(make_engine):
    self_test(make_engine(num_pages=2, page_size=2, max_batch_size=1))


def test_an_engine_that_no_job_fits_is_refused(make_engine):
    with pytest.raises(ModelError, match="only 1 token fits here, prompt and output together: raise"):
        self_test(make_engine(num_pages=2, page_size=1))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ValueError("qkv [3, 64]\n do not fit 4 heads"),
            "failed: ValueError: qkv .3, 64. do not fit 4 heads",
        ),
        (RuntimeError("could not create a primitive descriptor"), "failed: RuntimeError: could not create"),
    ],
)
def test_a_step_that_fails_is_the_models_fault(make_engine, error, reason):
    with pytest.raises(ModelError, match=reason):
        self_test(engine_of(make_engine, raising(error)))


def test_logits_that_are_never_finite_are_the_models_fault(make_engine):
    engine = engine_of(make_engine, lambda step, logits: torch.full_like(logits, torch.nan))
    with pytest.raises(ModelError, match=r"produces no token, whatever the prompt: .* logits contain NaN"):
        self_test(engine)


def test_one_token_that_was_never_trained_is_not(make_engine):
    def spoil(step, logits):
        rows = (step.token_ids == 0)[: len(logits)]
        return logits.masked_fill(rows[:, None], torch.nan)

    self_test(engine_of(make_engine, spoil))

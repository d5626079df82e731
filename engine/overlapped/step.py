"""Overlapped steps: the device computes one while the host plans and launches the next.

Nothing on the device waits for the host, and the result is still exact: a step's tokens stay on the device,
in `history`, as the next step's input, and sampling gets its parameters with the step's input. Copies,
kernels and pages are ordered by one stream: what step N still writes into a page is there before step N + 1
writes to it, even if the page then belongs to another sequence. A sequence that turns out to have ended with
step N may already be in N + 1: that is one wasted row, whose token is never read.

A sequence under a constraint may get its token of N + 1 only when the constraint has been told that of N. So
the model of N + 1 is launched as always, but its sampling only after N was read (`draw`). Meanwhile the
device computes the model, and the host the masks.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.sample import sample
from ...kernels.score import score
from ...kernels.structs import SampledTensors, SampleNeeds, SamplingTable
from ..adapters.step import StepAdapters, adapters_of
from ..batch import Batch
from ..config import EngineConfig
from ..pooling import PooledChunk, PooledRows
from ..sampling.bad_words import forbid
from ..sampling.rows import RowParams
from ..sampling.sampled import Sampled
from ..sampling.scored import Scoring, scoring_of
from ..scheduler import ScheduledSequence
from ..sequence import Sequence
from ..step_input import Executor
from .graphs import CudaGraphs, Graphs, NoGraphs
from .inputs import Packed, PackedInputs
from .results import Asides, Pending, Results
from .shapes import StepShape, shapes_for

CAPTURED_NEEDS = (SampleNeeds(False, False, False), SampleNeeds(False, False, True))
"""What graphs sample, which covers most requests; other work is launched kernel by kernel."""


_HISTORY_STRIDE = 1024
"""Known tokens are read in multiples of this many columns, so that Triton compiles few kernels."""


def _stride(tokens: int) -> int:
    return -(-tokens // _HISTORY_STRIDE) * _HISTORY_STRIDE


@dataclass(slots=True)
class _Launched:
    sequences: list[Sequence]
    tokens: int
    pooled: list[PooledChunk]
    packed: Packed
    asides: Asides
    launcher: "OverlappedLauncher"
    pending: Pending | None = None

    def draw(self) -> None:
        if self.pending is None:
            self.pending = self.launcher.draw(self.packed, self.asides)

    def read(self) -> Sampled:
        self.draw()
        assert self.pending is not None
        sampled = self.pending.read()
        self.launcher.device_s += self.pending.waited_s
        return sampled


class OverlappedLauncher:
    """Launches steps on one device's stream.

    Attributes:
        shapes: the shapes that steps are padded to.
        capacity_tokens: the maximum number of tokens of a sequence.
        device_s: seconds that the host has waited for the device.
    """

    #   host    plan 1  launch 1  plan 2  launch 2  read 1  plan 3  launch 3  read 2 …
    #   device                    ------- step 1 -------|------- step 2 -------|---- …
    overlapped = True

    def __init__(
        self,
        executor: Executor,
        config: EngineConfig,
        capacity_tokens: int,
        eos_token_ids: frozenset[int],
        graphs: Graphs | None = None,
    ) -> None:
        """Reserve the device's buffers; `graphs` captures graphs, by default as the config says."""
        self._executor, self._device = executor, executor.device
        self.device_s, self.capacity_tokens = 0.0, capacity_tokens
        # One row more than sequences: the null row, which padding uses.
        rows, vocab = config.max_batch_size + 1, executor.model_info.vocab_size
        self._batch = Batch(rows, capacity_tokens, config.page_size, self._device)
        self._params = RowParams(rows, vocab, eos_token_ids)
        if graphs is None:
            captures = self._device.type == "cuda" and config.cuda_graphs
            graphs = CudaGraphs(self._device) if captures else NoGraphs()
        self._graphs = graphs
        self.shapes = shapes_for(config, capacity_tokens, graphs=not isinstance(graphs, NoGraphs))
        with self.on_device():
            self._inputs = PackedInputs(
                self._batch,
                self._params,
                self.shapes,
                max_step_tokens=config.step_tokens,
                page_size=config.page_size,
                device=self._device,
            )
            self._results = Results(rows, self._device)
            columns = _stride(capacity_tokens + 1)
            self._history = torch.zeros(rows, columns, dtype=torch.int32, device=self._device)
            self._logits = torch.zeros(rows - 1, vocab, device=self._device)
            self._tokens = torch.zeros(rows - 1, dtype=torch.int64, device=self._device)

    def on_device(self) -> AbstractContextManager[object]:
        """A context in which this device is the current one, on which Triton launches."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    @torch.inference_mode()
    def launch(self, plan: list[ScheduledSequence]) -> _Launched:
        """Start a planned step. If it raises, the sequences are unchanged."""
        with self.on_device():
            for scheduled in plan:
                self._batch.sync(scheduled.sequence, self._begin_row)
            pooled, scoring = PooledRows.of(plan), scoring_of(plan)
            packed = self._inputs.pack(plan)
            with self._on_the_cpu():
                asides = self._run(packed, pooled, scoring, adapters_of(plan, self._device))
        sequences = [scheduled.sequence for scheduled in packed.sampling]
        tokens, chunks = sum(scheduled.count for scheduled in plan), pooled.chunks if pooled else []
        launched = _Launched(sequences, tokens, chunks, packed, asides, self)
        if not self._params.waits_for_tokens(packed.rows):
            launched.draw()
        return launched

    @torch.inference_mode()
    def draw(self, packed: Packed, asides: Asides) -> Pending:
        """Sample the tokens of the step that was launched last, and send them to the host with its asides."""
        self._params.follow(packed.rows)
        with self.on_device(), self._on_the_cpu():
            # Constraints may have begun to rule tokens out, or stopped to, since the step was packed.
            count, needs = (
                packed.shape.samples,
                replace(packed.needs, mask=self._params.masked(packed.rows)),
            )
            if count and not self._graphs.replay((count, needs)):
                made = self._sample(packed, needs)
            else:
                made = SampledTensors(self._tokens[:count], None, None, None)
            wanted = self._params.wanted(packed.rows[: len(packed.sampling)])
            return self._results.send(made, wanted, asides)

    @contextmanager
    def _on_the_cpu(self) -> Iterator[None]:
        """Count the time if the device is the CPU, which has computed by the end what was launched."""
        started = time.perf_counter()
        yield
        if self._device.type == "cpu":
            self.device_s += time.perf_counter() - started

    def end_at(self, eos_token_ids: frozenset[int]) -> None:
        """Hold these tokens back before `min_tokens`, instead of those it was made with."""
        self._params.eos_token_ids = eos_token_ids

    def probe(self) -> None:
        """Compute a token that belongs to no sequence, kernel by kernel, while no step is in flight."""
        self.rehearse(self.shapes.decodes(1, 1), SampleNeeds(False, False, False))

    @torch.inference_mode()
    def record(self, shape: StepShape) -> None:
        """Capture the model for a padded shape, and sampling for its samples, while no step is in flight."""
        with self.on_device():
            packed = self._inputs.idle(shape)
            self._graphs.capture(shape, partial(self._forward, packed))
            for needs in CAPTURED_NEEDS:
                self._graphs.capture((shape.samples, needs), partial(self._sample, packed, needs))
            self._wait()

    @torch.inference_mode()
    def rehearse(self, shape: StepShape, needs: SampleNeeds, start: int = 0) -> None:
        """Compute a step of nothing but padding, kernel by kernel, while no other is in flight.

        `start` is the number of tokens that each of its sequences has before those of the step.
        """
        with self.on_device():
            packed = replace(self._inputs.idle(shape, start), needs=needs)
            self._forward(packed)
            sampled = self._sample(packed, needs)
            self._results.send(sampled, np.full(0, -1, np.int32)).read()
            self._wait()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _begin_row(self, sequence: Sequence) -> None:
        self._params.set_row(sequence)
        if self._params.penalised(sequence.row):
            tokens = torch.tensor(sequence.tokens, dtype=torch.int32)
            if self._device.type == "cuda":
                tokens = tokens.pin_memory()
            self._history[sequence.row, : len(tokens)].copy_(tokens, non_blocking=True)

    def _run(
        self,
        packed: Packed,
        pooled: PooledRows | None,
        scoring: Scoring | None,
        adapters: StepAdapters | None,
    ) -> Asides:
        """Run the model; what is wanted of its prompts besides."""
        # Graphs have been captured without adapters, whose number and addresses differ from step to step.
        if pooled is not None or scoring is not None or adapters is not None:
            return self._forward_more(packed, pooled, scoring, adapters)
        if not self._graphs.replay(packed.shape):
            self._forward(packed)
        return Asides()

    def _forward(self, packed: Packed) -> None:
        """Run the model, from the packed input to the logits' buffer."""
        room = self._logits[: packed.shape.samples]
        logits = self._executor.execute(packed.step_input(self._history, room))
        # An executor may write its logits to the room it was shown; sampling is captured reading from there.
        if logits.data_ptr() != room.data_ptr():
            room.copy_(logits)

    def _forward_more(
        self,
        packed: Packed,
        pooled: PooledRows | None,
        scoring: Scoring | None,
        adapters: StepAdapters | None,
    ) -> Asides:
        """The same, kernel by kernel, with adapters or if more is wanted of prompts than keys and values."""
        room, step = self._logits[: packed.shape.samples], packed.step_input(self._history)
        asides, step.adapters = Asides(scoring=scoring), adapters
        if pooled is not None:
            step.pooled = self._upload(pooled.rows)
        if scoring is not None:
            assert step.sampled is not None, "a step of decodes has no prompt token"
            step.sampled = torch.cat([step.sampled, self._upload(scoring.places)])
        logits = self._executor.execute(step)
        room.copy_(logits[: len(room)])
        if pooled is not None:
            assert step.hidden is not None
            asides.sums = pooled.sums(step.hidden)
        if scoring is not None:
            tokens, wanted = self._upload(scoring.tokens), self._upload(scoring.wanted)
            asides.scored = score(logits[len(room) :], tokens, wanted, int(scoring.wanted.max()))
        return asides

    def _sample(self, packed: Packed, needs: SampleNeeds) -> SampledTensors:
        """Sample tokens from the logits' buffer; they also become known to the device."""
        arrays, count = packed.arrays, packed.shape.samples
        places = torch.arange(count, device=self._device)
        sampled = sample(self._logits[:count], places, self._table(packed, needs), needs)
        # Without a token (-1) the sequence ends, but it may already be in the next step.
        # At `lengths`, the position that the token will have in the next step's input.
        self._history[arrays.rows, arrays.lengths] = sampled.tokens.int().clamp_(min=0)
        self._tokens[:count] = sampled.tokens
        return replace(sampled, tokens=self._tokens[:count])

    def _table(self, packed: Packed, needs: SampleNeeds) -> SamplingTable:
        """What the samples ask for, by sample."""
        arrays = packed.arrays
        tokens = self._history[:0]
        if needs.penalties:
            tokens = self._history[:, : _stride(packed.longest)][arrays.rows]
        bias, masks = self._params.bias(packed.rows, needs), self._params.masks(packed.rows, needs)
        words = self._params.bad_words.of(packed.rows) if needs.bias else None
        table = SamplingTable(
            **arrays.params,
            tokens=tokens,
            lengths=arrays.lengths,
            prompt_lengths=arrays.prompt_lengths,
            bias_ids=self._upload(bias.ids),
            bias_values=self._upload(bias.values),
            bias_until=self._upload(bias.until),
            mask_of=None if masks is None else self._upload(masks[0]),
            masks=None if masks is None else self._upload(masks[1]),
        )
        if words is None:
            return table
        return forbid(table, self._upload(words[0]), self._upload(words[1]), self._history, arrays.rows)

    def _upload(self, array: NDArray[np.generic]) -> Tensor:
        """Small changes to the device; nothing, which a captured graph needs no copy of, is made there."""
        tensor = torch.from_numpy(array)
        if not array.size:
            return torch.empty_like(tensor, device=self._device)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.kernels import attention, rope_cache
from headrace.kernels.activation import silu_and_mul_torch
from headrace.kernels.compiled import CompiledDecoder, Panels, can_compile, pack_panels, products_here
from headrace.kernels.norm import rms_norm_torch

from . import flat

paged_attention_torch = flat.attention(attention.paged_attention_torch)
rope_and_cache_torch = flat.rope_and_cache(rope_cache.rope_and_cache_torch)

HIDDEN, INTERMEDIATE, VOCAB, HEADS, KV_HEADS, DIM = 64, 96, 77, 4, 2, 32
EPS, PAGE_SIZE, LAYERS = 1e-5, 7, 3
CONTEXTS = [(1, 1), (1, 30), (33, 33), (17, 40), (1, 150), (5, 9)]  # query rows, tokens in the cache

pytestmark = pytest.mark.skipif(
    not can_compile(torch.bfloat16, torch.device("cpu")),
    reason="there is no compiler",
)


@dataclass
class Layer:
    input_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    qkv: Panels
    output: Panels
    gate_up: Panels
    down: Panels
    plain: dict[str, tuple[Tensor, Tensor | None]]
    sliding_window: int = 0


@dataclass
class Case:
    """A small decoder with a step's inputs, and the same computed in float64 from plain operations."""

    layers: list[Layer]
    embedding: Tensor
    norm: Tensor
    head: Tensor
    cos_sin: Tensor
    inputs: tuple[Tensor, ...]
    keys: Tensor
    values: Tensor
    int8: bool

    def compiled(
        self, *pooled: Tensor, products: str | None = None, threads: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        decoder = CompiledDecoder(
            self.layers,
            self.embedding,
            self.norm,
            pack_panels(self.head, int8=self.int8),
            self.cos_sin,
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            eps=EPS,
            products=products,
        )
        keys, values = self.keys.clone(), self.values.clone()
        decoder.bind(keys, values)
        torch.set_num_threads(threads)
        logits, hidden = decoder(*self.inputs, *pooled)
        return (logits if hidden is None else hidden), keys, values

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        token_ids, positions, slots, starts, contexts, tables, sampled = self.inputs
        keys, values = self.keys.double(), self.values.double()
        residual = self.embedding[token_ids].double()
        for index, layer in enumerate(self.layers):
            norms = [None if x is None else x.double() for x in (layer.q_norm, layer.k_norm)]
            q = rope_and_cache_torch(
                self.linear(rms_norm_torch(residual, layer.input_norm.double(), EPS), *layer.plain["qkv"]),
                positions,
                slots,
                self.cos_sin.double(),
                keys[index],
                values[index],
                num_heads=HEADS,
                num_kv_heads=KV_HEADS,
                q_norm=norms[0],
                k_norm=norms[1],
                eps=EPS,
            )
            attended = paged_attention_torch(
                q,
                keys[index],
                values[index],
                tables,
                starts,
                contexts,
                scale=DIM**-0.5,
                sliding_window=layer.sliding_window,
            )
            residual = residual + self.linear(attended.flatten(1), *layer.plain["output"])
            x = self.linear(rms_norm_torch(residual, layer.mlp_norm.double(), EPS), *layer.plain["gate_up"])
            residual = residual + self.linear(silu_and_mul_torch(x), *layer.plain["down"])
        if sampled is not None:
            residual = residual[sampled]
        return self.linear(rms_norm_torch(residual, self.norm.double(), EPS), self.head), keys, values

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.int8:
            x, weight = _rounded_rows(x), _rounded_outputs(weight)
        return F.linear(x.double(), weight.double(), None if bias is None else bias.double())


def _rounded_outputs(weight: Tensor) -> Tensor:
    """The weight as int8 has it, exact in float64."""
    scales = weight.float().abs().amax(1, keepdim=True) / 127
    return (weight.float() / scales).round().double() * scales.double()


def _rounded_rows(x: Tensor) -> Tensor:
    """A product's input as int8 has it; ties of float32 go where the kernel lets them go."""
    peaks = x.float().abs().amax(1, keepdim=True)
    return (x.float() * (127 / peaks)).round().double() * (peaks / 127).double()


def make(*, biased=False, normed=False, int8=False, window=0, contexts=CONTEXTS, seed=0) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).bfloat16()

    def layer() -> Layer:
        plain = {
            name: (random(out, width, scale=width**-0.5), random(out, scale=0.5) if biased else None)
            for name, out, width in (
                ("qkv", (HEADS + 2 * KV_HEADS) * DIM, HIDDEN),
                ("output", HIDDEN, HEADS * DIM),
                ("gate_up", 2 * INTERMEDIATE, HIDDEN),
                ("down", HIDDEN, INTERMEDIATE),
            )
        }
        norms = [1 + random(DIM, scale=0.1) if normed else None for _ in range(2)]
        panels = {name: pack_panels(*pair, int8=int8) for name, pair in plain.items()}
        weights = [1 + random(HIDDEN, scale=0.1) for _ in range(2)]
        return Layer(*weights, *norms, **panels, plain=plain, sliding_window=window)

    longest = max(context for _, context in contexts)
    width = -(-longest // PAGE_SIZE)
    tables = torch.randperm(len(contexts) * width, generator=generator).int().view(len(contexts), width) + 1
    positions = torch.cat([torch.arange(context - rows, context) for rows, context in contexts])
    owners = torch.repeat_interleave(
        torch.arange(len(contexts)), torch.tensor([rows for rows, _ in contexts])
    )
    slots = tables[owners, positions // PAGE_SIZE].long() * PAGE_SIZE + positions % PAGE_SIZE
    starts = torch.tensor([0, *(rows for rows, _ in contexts)]).cumsum(0).int()
    angles = torch.randn(longest, DIM // 2, generator=generator)
    cache = (LAYERS, int(tables.max()) + 1, KV_HEADS, PAGE_SIZE, DIM)
    return Case(
        layers=[layer() for _ in range(LAYERS)],
        embedding=random(VOCAB, HIDDEN),
        norm=1 + random(HIDDEN, scale=0.1),
        head=random(VOCAB, HIDDEN, scale=HIDDEN**-0.5),
        cos_sin=torch.cat((angles.cos(), angles.sin()), 1),
        inputs=(
            torch.randint(VOCAB, positions.shape, generator=generator),
            positions,
            slots,
            starts,
            torch.tensor([context for _, context in contexts]).int(),
            tables,
            None,
        ),
        keys=random(*cache),
        values=random(*cache),
        int8=int8,
    )


def assert_close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], error: float = 1e-2) -> None:
    """Within what a few layers' roundings to bfloat16 come to, or so large a part of it."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a.double() - e).norm() <= error * e.norm()
        assert (a.double() - e).abs().max() <= 10 * error


@pytest.mark.parametrize("products", products_here())
@pytest.mark.parametrize(
    "options",
    [{}, {"biased": True}, {"normed": True}, {"window": 20}],
    ids=["plain", "bias", "norms", "window"],
)
def test_a_ragged_step_matches_plain_operations(products, options):
    case = make(**options)
    assert_close(case.compiled(products=products), case.expected())


@pytest.mark.parametrize("products", products_here())
@pytest.mark.parametrize("biased", [True, False])
def test_a_ragged_step_of_bytes_matches_plain_operations_on_rounded_rows(products, biased):
    """More loosely: what bfloat16 moves over the middle between two bytes becomes another byte."""
    case = make(int8=True, biased=biased)
    assert_close(case.compiled(products=products), case.expected(), 3e-2)


@pytest.mark.parametrize("products", products_here())
def test_a_product_of_bytes_is_exact(products):
    case = make(int8=True)
    for layer in case.layers:  # which leave the embedding as it is
        layer.output = pack_panels(torch.zeros(HIDDEN, HEADS * DIM).bfloat16(), int8=True)
        layer.down = pack_panels(torch.zeros(HIDDEN, INTERMEDIATE).bfloat16(), int8=True)
    rows = rms_norm_torch(case.embedding[case.inputs[0]], case.norm, EPS)
    off = (case.compiled(products=products)[0].double() - case.linear(rows, case.head)).abs().amax(1)
    # The norm's last bit may fall otherwise, and with it a byte of a row.
    assert (off < 1e-6).sum() > 0.8 * len(off)
    assert off.max() < 0.02


@pytest.mark.parametrize("products", products_here())
@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65])
def test_any_number_of_rows(products, rows):
    case = make(contexts=[(rows, rows + 3)], seed=rows)
    assert_close(case.compiled(products=products), case.expected())


@pytest.mark.parametrize("sampled", [[], [0], [3, 57], list(range(0, 58, 2))])
def test_only_sampled_rows_get_logits_and_all_rows_are_cached(sampled):
    case = make()
    everything = case.compiled()
    case.inputs = (*case.inputs[:-1], torch.tensor(sampled, dtype=torch.int64))
    logits, keys, values = case.compiled()
    assert torch.equal(logits, everything[0][sampled])
    assert torch.equal(keys, everything[1])
    assert torch.equal(values, everything[2])


@pytest.mark.parametrize("products", products_here())
@pytest.mark.parametrize("sampled", [[], [0, 3]])
def test_pooled_rows_get_the_hidden_states_that_logits_are_made_of(products, sampled):
    case, pooled = make(), [4, 20, 57]
    everything = case.compiled(products=products)
    case.inputs = (*case.inputs[:-1], torch.tensor(sampled, dtype=torch.int64))
    hidden, keys, values = case.compiled(torch.tensor(pooled), products=products)
    assert hidden.dtype == torch.bfloat16
    assert torch.allclose(F.linear(hidden.float(), case.head.float()), everything[0][pooled], atol=1e-4)
    assert torch.equal(keys, everything[1])
    assert torch.equal(values, everything[2])


@pytest.mark.parametrize("products", products_here())
@pytest.mark.parametrize("int8", [True, False])
def test_a_row_does_not_depend_on_its_neighbours_or_the_threads(products, int8):
    case = make(int8=int8)
    together = case.compiled(products=products, threads=3)[0]
    token_ids, positions, slots, starts, contexts, tables, _ = case.inputs
    for b in range(len(CONTEXTS)):
        own = slice(int(starts[b]), int(starts[b + 1]))
        case.inputs = (
            token_ids[own],
            positions[own],
            slots[own],
            torch.tensor([0, own.stop - own.start]).int(),
            contexts[b : b + 1],
            tables[b : b + 1],
            None,
        )
        assert torch.equal(case.compiled(products=products)[0], together[own])


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("value", [-1, 10**6])
def test_a_position_or_slot_outside_is_refused(place, value):
    case = make()
    inputs = [x.clone() if x is not None else None for x in case.inputs]
    inputs[place][4] = value
    case.inputs = tuple(inputs)
    with pytest.raises(IndexError, match="token 4"):
        case.compiled()


def test_inputs_of_another_type_are_refused():
    case = make()
    case.inputs = (case.inputs[0].int(), *case.inputs[1:])
    with pytest.raises(ValueError, match="int64"):
        case.compiled()


def test_what_the_products_can_not_do_is_not_compiled():
    cpu = torch.device("cpu")
    assert not can_compile(torch.float32, cpu, 64)
    assert not can_compile(torch.bfloat16, cpu, 64, 48)
    assert not can_compile(torch.bfloat16, torch.device("meta"), 64)

"""What was measured, as tables."""

from statistics import median

from ..tables import NAMES, number, table, times


def gateway_table(facts: dict) -> str:
    """What a gateway adds to each chunk, and what a stream and an answer cost; by streams and checkout."""
    chunks, others = [], []
    for streams, by_name in facts["streams"].items():
        first = None
        for name, found in by_name.items():
            costs = {
                process: median(each[f"{process}_s"] / each["chunks"] for each in found)
                for process in ("gateway", "reader")
            }
            first = first or costs["gateway"]
            late = (median(each[f"added_{part}_ms"] for each in found) for part in ("p50", "p99"))
            label = f"{name}, {int(streams):,} streams"
            row = [label, *map(number, late), number(1e6 * costs["gateway"])]
            row.append(f"{costs['gateway'] / costs['reader']:.2f} times")
            if len(by_name) > 1:
                row.append(f"{costs['gateway'] / first:.2f} times")
            chunks.append(row)
            idle, answers = (median(each[key] for each in found) for key in ("idle_bytes", "answers_per_s"))
            others.append([label, number(idle / 1000), number(answers)])
    head = ["", "ms later than a raw reader, median", "the same, 99th percentile"]
    head += ["CPU µs a chunk", "a raw reader's CPU"]
    if len(chunks[0]) > len(head):
        head.append("CPU against the first")
    parts = [table(head, chunks), table(["", "kB an idle stream", "whole answers/s"], others)]
    return "\n\n".join([*parts, _beside_vllm(facts["vllm"])])


def _beside_vllm(facts: dict) -> str:
    """The whole service and vLLM's server with the same model, where both were measured."""
    if "lost" in facts:
        return f"vLLM's server: not measured: {facts['lost']}"
    ours, rows = facts["servers"]["headrace"], []
    for name, own in facts["servers"].items():
        ratios = [times(ours[key], own[key]) for key in ("answers_per_s", "chunks_per_s")]
        figures = [number(own[key]) for key in ("answers_per_s", "chunks_per_s")]
        label = f"{NAMES[name]} {facts['versions'].get(name, '')}".strip()
        rows.append([label, *(cell for pair in zip(figures, ratios, strict=True) for cell in pair)])
    head = ["", "whole answers/s", "headrace against it", "chunks/s of streams", "headrace against it"]
    return table(head, rows)

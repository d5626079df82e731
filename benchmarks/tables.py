"""From measured seconds to the tables that a reader sees, on the terminal and in docs/performance.md."""

from math import floor, log10
from statistics import median

NAMES = {
    "headrace": "headrace",
    "transformers_static": "`transformers`, static batches",
    "transformers_continuous": "`transformers`, continuous batching",
    "vllm": "vLLM",
    "openvino": "OpenVINO GenAI",
    "llamacpp": "llama.cpp",
}

Row = list[str]


def table(head: Row, rows: list[Row]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """Rounded to significant digits; a dash for what was not measured."""
    if not value:
        return "–" if value is None else "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.{max(0, digits - 1 - floor(log10(abs(rounded))))}f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def about_machine(machine: dict) -> str:
    """One line on the machine, the versions and the day."""
    flags = f" ({', '.join(machine['flags'])})" if machine["flags"] else ""
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    return (
        f"{gpu}{machine['cpu']}, {machine['cores']} cores{flags}, {machine['threads']} threads; "
        f"Python {machine['python']}, torch {machine['torch']}; {machine['date']}"
    )


def engine_figures(facts: dict, name: str) -> dict[str, float]:
    """What the measured seconds of one contender come to; only what all needed cases were measured for."""
    cases = facts["cases"]
    seconds = {case: median(values) for case, values in facts["seconds"][name].items()}
    figures = {}
    if "workload" in seconds:
        figures["tokens_per_s"] = cases["workload"]["output_tokens"] / seconds["workload"]
    if "first" in seconds:
        figures["first_token_ms"] = 1000 * seconds["first"]
    if {"first", "alone"} <= seconds.keys():
        figures["token_ms"] = (
            1000 * (seconds["alone"] - seconds["first"]) / (cases["alone"]["output_tokens"] - 1)
        )
    if "prefill" in seconds:
        figures["prefill_per_s"] = cases["prefill"]["prompt_tokens"] / seconds["prefill"]
    if {"decode_1", "decode_65"} <= seconds.keys():
        figures["step_ms"] = 1000 * (seconds["decode_65"] - seconds["decode_1"]) / 64
    return figures


def engine_ceilings(facts: dict) -> dict[str, float]:
    """What the machine's ceilings would allow: the figures of an engine without any other cost."""
    options, model, cases = facts["options"], facts["model"], facts["cases"]
    rows, chunk = options["requests"], options["step_tokens"]
    linears = {int(count): seconds for count, seconds in facts["ceilings"]["linears_s"].items()}
    work = cases["workload"]
    prompt_s, output_s = (
        work["prompt_tokens"] * linears[chunk] / chunk,
        work["output_tokens"] * linears[rows] / rows,
    )
    held = cases["decode_65"]["prompt_tokens"] + 32 * rows
    weight_bytes = 1 if options["quantization"] else 2
    step_bytes = weight_bytes * model["weights"] + 2 * model["kv_elements"] * held
    return {
        "tokens_per_s": work["output_tokens"] / (prompt_s + output_s),
        "token_ms": 1000 * linears[1],
        "prefill_per_s": chunk / linears[chunk],
        "step_ms": 1000 * linears[rows],
        "step_copy_ms": 1000 * step_bytes / facts["ceilings"]["copy_bytes_per_s"],
        "matmul_tflops": 2 * model["weights"] * chunk / linears[chunk] / 1e12,
        "decode_tflops": 2 * model["weights"] * rows / linears[rows] / 1e12,
    }


def engine_table(facts: dict) -> str:
    """All contenders of a run, with ratios, and the fractions of the ceilings."""
    figures = {name: engine_figures(facts, name) for name in facts["seconds"]}
    ours, rows = figures.get("headrace", {}), []
    for name in sorted(figures, key=lambda name: -figures[name].get("tokens_per_s", 0)):
        own = figures[name]
        rows.append(
            [
                f"{NAMES[name]} {facts['versions'][name].get(_package(facts, name), '')}".strip(),
                number(own.get("tokens_per_s")),
                _times(ours.get("tokens_per_s"), own.get("tokens_per_s")) if name != "headrace" else "",
                number(own.get("first_token_ms")),
                number(own.get("token_ms")),
                number(own.get("prefill_per_s")),
                number(own.get("step_ms")),
            ]
        )
    head = ["", "output tokens/s", "headrace against it", "first token, ms", "ms a token, alone"]
    head += ["prompt tokens/s", f"step of {facts['options']['requests']}, ms"]
    lines = [table(head, rows)]
    if facts["lost"]:
        lines.append("")
        lines += [f"- {NAMES[name]}: not measured: {reason}" for name, reason in facts["lost"].items()]
    if best := _against_the_best(figures):
        lines += ["", best]
    ceiling = engine_ceilings(facts)
    if {"prefill_per_s", "step_ms"} <= ours.keys():
        reached = [
            [
                f"prefill, steps of {facts['options']['step_tokens']} rows",
                f"{number(ceiling['matmul_tflops'])} TFLOP/s",
                percent(ours["prefill_per_s"] / ceiling["prefill_per_s"]),
                "",
            ],
            [
                f"decode, steps of {facts['options']['requests']} rows",
                f"{number(ceiling['decode_tflops'])} TFLOP/s",
                percent(ceiling["step_ms"] / ours["step_ms"]),
                percent(ceiling["step_copy_ms"] / ours["step_ms"]),
            ],
        ]
        copied = facts["ceilings"]["copy_bytes_per_s"] / 1e9
        head = [
            "headrace",
            "ceiling: the linear maps alone, bf16",
            "reached",
            f"of memory copies ({number(copied)} GB/s)",
        ]
        lines += ["", table(head, reached), ""]
        lines.append(
            f"The linear maps alone, all prompt tokens in full steps and all output tokens in steps of "
            f"{facts['options']['requests']}, would allow {number(ceiling['tokens_per_s'])} output tokens/s."
        )
    return "\n".join(lines)


def _against_the_best(figures: dict[str, dict[str, float]]) -> str:
    """headrace against the fastest peer of each column."""
    ours = figures.get("headrace", {})
    peers = [own for name, own in figures.items() if name != "headrace"]
    told = []
    for name, label, more_is_better in (
        ("tokens_per_s", "output tokens/s", True),
        ("first_token_ms", "time to first token", False),
        ("token_ms", "time per token", False),
    ):
        theirs = [own[name] for own in peers if name in own]
        if name in ours and theirs:
            best = max(theirs) if more_is_better else min(theirs)
            told.append(f"{label} {ours[name] / best:.2f} times")
    return f"headrace against the fastest peer of each: {', '.join(told)}." if told else ""


def _package(facts: dict, name: str) -> str:
    return next(iter(facts["versions"][name]), "") if name != "headrace" else ""


def _times(ours: float | None, theirs: float | None) -> str:
    return "–" if not ours or not theirs else f"{ours / theirs:.2f} times"


def kernels_table(facts: dict) -> str:
    """Each operation's error, speed and part of the ceilings."""
    copied, multiplied = facts["ceilings"]["copy_bytes_per_s"], facts["ceilings"]["matmul_flops"]
    rows = []
    for name, row in facts["rows"].items():
        if "failed" in row:
            rows.append([name, "failed: " + row["failed"], *[""] * 5])
            continue
        moved, done = row["bytes"] / row["seconds"], row["flops"] / row["seconds"]
        rows.append(
            [
                name,
                f"{row['error']:.1e}",
                number(1e6 * row["seconds"]),
                number(moved / 1e9),
                percent(moved / copied),
                number(done / 1e12) if done else "",
                percent(done / multiplied) if done else "",
            ]
        )
    head = ["", "error", "µs", "GB/s", "of a copy", "TFLOP/s", "of a matrix product"]
    ceiling = (
        f"A large copy moves {number(copied / 1e9)} GB/s, a large bf16 product does "
        f"{number(multiplied / 1e12)} TFLOP/s."
    )
    four, sixteen = (facts["rows"].get(f"{kind}linear, 1 row", {}).get("seconds") for kind in ("int4 ", ""))
    if four and sixteen:
        ceiling += f" At one row the int4 linear is {sixteen / four:.2f} times as fast as the bf16 one."
    return f"{table(head, rows)}\n\n{ceiling}"


def service_table(facts: dict) -> str:
    """What the queue leaves of the engine's speed, and what a token costs Redis."""
    tokens, redis = facts["output_tokens"], facts["redis"]
    rates = {name: tokens / median(seconds) for name, seconds in facts["seconds"].items()}
    rows = [[name, number(rate), percent(rate / rates["bare engine"])] for name, rate in rates.items()]
    costs = [
        ["commands, those in scripts counted", number(redis["commands"] / tokens)],
        ["calls of scripts", number(redis["scripts"] / tokens)],
        ["bytes to Redis", number(redis["bytes_in"] / tokens)],
        ["bytes from Redis", number(redis["bytes_out"] / tokens)],
    ]
    return "\n\n".join(
        (
            table(["", "output tokens/s", "of the bare engine"], rows),
            table(["Redis", "an output token"], costs),
        )
    )


def pacing_table(facts: dict) -> str:
    """Streams beside long prompts, without and with the objective; medians of the rounds."""
    objective_s, calm_s = facts["objective_s"], facts["calm_s"]

    def figure(name: str, key: str) -> float:
        return float(median(each[key] for each in facts["rounds"][name]))

    rows = []
    for label, key, factor in (
        ("ms between two tokens of a stream, median", "p50_s", 1000),
        ("the same, 99th percentile", "p99_s", 1000),
        ("the same, longest", "most_s", 1000),
        ("s to a long prompt's first token", "first_token_s", 1),
        ("output tokens/s", "output_tokens_per_s", 1),
        ("tokens of long prompts/s", "prompt_tokens_per_s", 1),
        ("tokens computed/s", "tokens_per_s", 1),
    ):
        without, with_ = figure("without", key), figure("with", key)
        rows.append(
            [label, number(factor * without), number(factor * with_), f"{number(with_ / without)} times"]
        )
    late = sum(each["p99_s"] > objective_s for each in facts["rounds"]["with"])
    kept = f"kept in {len(facts['rounds']['with']) - late} of {len(facts['rounds']['with'])} rounds"
    about = (
        f"Objective: {number(1000 * objective_s)} ms from a stream's token to its next; a step without "
        f"prompts took {number(1000 * calm_s)} ms. At the 99th percentile it is {kept}."
    )
    return "\n\n".join((about, table(["", "no objective", "objective", "ratio"], rows)))

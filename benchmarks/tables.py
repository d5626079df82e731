"""From measured seconds to the tables that a reader sees, on the terminal and in docs/performance.md."""

from math import exp, floor, log10
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


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


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


def reached_table(facts: dict) -> str:
    """What headrace does of the machine's best product and copy, in prefill and in decode.

    Counted is what no engine can do without: the products of the linear maps, the head's for sampled rows
    alone; reading the weights once a step; writing keys and values in prefill, reading them in decode.
    """
    ours, model, cases = engine_figures(facts, "headrace"), facts["model"], facts["cases"]
    chunk, rows = facts["options"]["step_tokens"], facts["options"]["requests"]
    multiplied, copied = (facts["ceilings"][name] for name in ("matmul_flops", "copy_bytes_per_s"))
    weight_bytes = (1 if facts["options"]["quantization"] else 2) * model["weights"]
    head, token_bytes = model["vocab"] * model["hidden"], 2 * model["kv_elements"]

    def row(name: str, seconds: float, products: int, moved: int) -> Row:
        done_per_s, moved_per_s = 2 * products / seconds, moved / seconds
        return [
            name,
            number(done_per_s / 1e12),
            percent(done_per_s / multiplied),
            number(moved_per_s / 1e9),
            percent(moved_per_s / copied),
        ]

    found = []
    if "prefill_per_s" in ours:
        tokens, sampled = cases["prefill"]["prompt_tokens"], cases["prefill"]["requests"]
        products = tokens * (model["weights"] - head) + sampled * head
        moved = -(-tokens // chunk) * weight_bytes + tokens * token_bytes
        seconds = tokens / ours["prefill_per_s"]
        found.append(row(f"prefill, steps of {chunk} tokens", seconds, products, moved))
    if "step_ms" in ours:
        held = cases["decode_65"]["prompt_tokens"] + 32 * rows
        moved = weight_bytes + held * token_bytes
        found.append(row(f"decode, steps of {rows}", ours["step_ms"] / 1000, rows * model["weights"], moved))
    columns = ["headrace", "TFLOP/s", f"of the best product ({number(multiplied / 1e12)} TFLOP/s)"]
    columns += ["GB/s", f"of a copy ({number(copied / 1e9)} GB/s)"]
    return table(columns, found) if found else ""


def linears_alone(facts: dict) -> float:
    """Output tokens/s of the workload if a step were its linear maps alone, by torch's fastest products.

    Prompt tokens come in full steps and need no head, output tokens in steps of all requests.
    """
    work, rows, chunk = (
        facts["cases"]["workload"],
        facts["options"]["requests"],
        facts["options"]["step_tokens"],
    )
    layers, head = (facts["ceilings"]["linears_s"][part] for part in ("layers", "head"))
    prompt_s = work["prompt_tokens"] * layers[str(chunk)] / chunk
    output_s = work["output_tokens"] * (layers[str(rows)] + head[str(rows)]) / rows
    return float(work["output_tokens"] / (prompt_s + output_s))


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
                times(ours.get("tokens_per_s"), own.get("tokens_per_s")) if name != "headrace" else "",
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
    if "headrace" in figures and "matmul_flops" in facts["ceilings"]:
        lines += ["", reached_table(facts), ""]
        lines.append(
            "If a step were only its linear maps, by the fastest of torch's products, the limit would be "
            f"{number(linears_alone(facts))} output tokens/s."
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


def times(ours: float | None, theirs: float | None) -> str:
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
        f"A large copy moves {number(copied / 1e9)} GB/s, a large matrix product does "
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


def queue_table(facts: dict) -> str:
    """What the queue adds to the time of a first token, and how fast jobs go in."""
    engine_ms, service_ms = (1000 * median(seconds) for seconds in facts["first_token_s"].values())
    rates = {name: median(values) for name, values in facts["enqueued_per_s"].items()}
    celery = rates["Celery .delay()"]
    return "\n\n".join(
        (
            table(
                ["", "first token, ms"],
                [
                    ["bare engine", number(engine_ms)],
                    ["seen by the client", number(service_ms)],
                    ["what the queue adds", number(service_ms - engine_ms)],
                ],
            ),
            table(
                ["", "jobs/s", "of Celery's"],
                [[name, number(rate), f"{rate / celery:.2f} times"] for name, rate in rates.items()],
            ),
        )
    )


def ceiling_table(facts: dict) -> str:
    """What an engine process publishes, and the CPU time of whom a token takes; by batch and checkout."""
    rows = []
    for batch, by_name in facts["batches"].items():
        speeds = {
            name: [each["tokens"] / each["seconds"] for each in found] for name, found in by_name.items()
        }
        first = median(next(iter(speeds.values())))
        for name, found in by_name.items():
            cpu = [
                number(1e6 * median(each[process] / each["tokens"] for each in found))
                for process in ("process", "redis")
            ]
            speed = median(speeds[name])
            rows.append([f"{name}, batch of {batch}", number(speed), number(1e6 / speed), *cpu])
            if len(by_name) > 1:
                rows[-1].append(f"{speed / first:.2f} times")
    head = ["", "tokens/s", "µs a token", "CPU µs in the process", "in Redis"]
    compared = len(rows[0]) > len(head)
    return table(head + ["against the first"] * compared, rows)


def webhooks_table(facts: dict) -> str:
    """What hanging deliveries leave of the service's speed."""
    tokens, alone, beside = facts["output_tokens"], facts["seconds"]["alone"], facts["seconds"]["beside"]
    ratios = sorted(100 * one / other for one, other in zip(alone, beside, strict=True))
    ratio = f"{median(ratios):.1f} % ({ratios[0]:.0f} to {ratios[-1]:.0f} %)"
    rows = [
        ["no webhook under way", number(tokens / median(alone)), ""],
        [f"{facts['hanging']:,} webhooks hanging", number(tokens / median(beside)), ratio],
    ]
    return table(["", "output tokens/s", "ratio of runs in turn: median (range)"], rows)


def steps_table(facts: dict) -> str:
    """What a decode step takes, and the host's part in it, by the way of launching steps."""
    first = facts["rows"][0]["step_s"]
    rows = [
        [
            row["way"],
            number(1000 * row["step_s"]),
            number(1000 * row["host_s"]),
            f"{row['step_s'] / first:.2f} times",
            number(row["ready_s"]),
        ]
        for row in facts["rows"]
    ]
    head = [
        "",
        f"step of {facts['requests']}, ms",
        "the host's part, ms",
        "against the first",
        "ready after, s",
    ]
    return table(head, rows)


def determinism_table(facts: dict) -> str:
    """What deterministic mode costs, and beside how many others a request keeps its bits."""
    rows = []
    for dtype, modes in facts["dtypes"].items():
        usual = modes["default"]
        for mode, row in modes.items():
            speeds = [
                f"{number(row[case])} ({row[case] / usual[case]:.2f})" for case in ("decode", "prefill")
            ]
            rows.append([f"{dtype}, {mode}", *speeds, ", ".join(map(str, row["same"])) or "none"])
    counts = ", ".join(map(str, facts["neighbours"]))
    return table(
        ["", "decode, tokens/s (ratio)", "prefill, tokens/s (ratio)", f"same bits, of {counts} neighbours"],
        rows,
    )


def accuracy_table(facts: dict) -> str:
    """What each way of holding the weights does to the model's predictions."""
    rows = [
        [name, f"{exp(row['surprise']):.3f}", percent(row["agreed"], 2), f"{row['divergence']:.1e}"]
        for name, row in facts["rows"].items()
    ]
    return table(
        ["weights", "perplexity", "same best token as float32", "divergence from float32, nats"], rows
    )


def scripts_table(facts: dict) -> str:
    """What each script costs Redis with little and with much, by what there is much of."""
    tables = []
    for what in ("number of everything", "tokens in the log", "bytes carried"):
        by_size = facts[what]
        sizes = list(by_size)
        rows = []
        for name in by_size[sizes[-1]]:
            took = [costs[name] for costs in by_size.values()]
            ratios = [f"{took[-1] / each:.2f} times" for each in took[:-1]]
            rows.append([name, *(number(each) for each in took), *ratios])
        head = [f"CPU µs a call by {what}", *(f"{int(size):,}" for size in sizes)]
        tables.append(table([*head, *(f"against {int(size):,}" for size in sizes[:-1])], rows))
    return "\n\n".join(tables)

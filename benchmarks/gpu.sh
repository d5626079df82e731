#!/usr/bin/env bash
# All that needs a GPU, in one call of under nine minutes, into one JSON file:
#
#   benchmarks/gpu.sh [--dry-run] [FILE or FOLDER]      (the default folder is benchmarks/results)
#
# - the kernels' tests, compiled for the GPU instead of interpreted, and the engine's: its tokens with captured
#   graphs and overlapped steps, what it compiles and what it waits for
# - every kernel's error, speed and part of the measured ceilings
# - what a step costs on the host, with and without overlap and graphs
# - the engine with a Qwen3-0.6B- and a Llama-8B-shaped random model and 256 requests at once, against
#   `transformers` with static and with continuous batches, and the part of the roof that its decode reaches
#
# It needs this repository and a Python (PYTHON=python3) with torch, triton, transformers and pytest; nothing is
# installed or fetched. Every part has to end by a stated second, so that what one leaves of its time the next ones
# have; one that fails or is stopped leaves what it has measured and never keeps the next from running. --dry-run
# takes the CPU and tiny sizes: it shows that the script works.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=src TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
python=${PYTHON:-python3}

device=cuda tests=(tests/kernels/test_*.py tests/engine/test_gpu.py) at_once=8
steps=(Qwen3-0.6B 256) kernels=() models=(Qwen3-0.6B Llama-8B) load=(--requests 256 --step-tokens 8192 --rounds 2)
if [ "${1-}" = --dry-run ]; then
    shift
    device=cpu tests=(tests/kernels/test_norm.py tests/engine/test_gpu.py) at_once=1
    steps=(tiny 4) kernels=(--small) models=(tiny) load=(--requests 4 --step-tokens 64 --rounds 1 --threads 1)
fi
to=${1-benchmarks/results}
parts=$(mktemp -d)
finish() {
    "$python" -m benchmarks.gather "$parts" "$to"
    rm -rf "$parts"
}
trap finish EXIT
trap 'exit 130' INT TERM

part() { # NAME UNTIL COMMAND...: from now until that second of this script, and 15 more to end
    local started=$SECONDS status=0 left=$(($2 - SECONDS))
    echo "== $1"
    if [ $left -gt 0 ]; then
        timeout --kill-after=15 $left "${@:3}" 2>&1 | tee "$parts/$1.log" || status=${PIPESTATUS[0]}
    else
        status=124
    fi
    printf '{"status": %d, "seconds": %d}\n' "$status" $((SECONDS - started)) >"$parts/$1.status"
}

# A process for each file: compiling takes one core each, and a fault of the GPU ends only the file it is in.
pytest=("$python" -m pytest -c /dev/null --rootdir=. --import-mode=importlib -p no:cacheprovider -q)
part tests 140 xargs -P $at_once -n 1 "${pytest[@]}" < <(printf '%s\n' "${tests[@]}")
part kernels 215 "$python" -m benchmarks.kernels --device $device ${kernels[@]+"${kernels[@]}"} \
    --json "$parts/kernels.json"
part steps 260 "$python" -m benchmarks.steps --device $device --model "${steps[0]}" --requests "${steps[1]}" \
    --steps 100 --rounds 1 --json "$parts/steps.json"
until=355
for model in "${models[@]}"; do
    part "engine-$model" $until "$python" -m benchmarks.engine --device $device --model "$model" "${load[@]}" \
        --only headrace transformers_static transformers_continuous \
        --cases workload decode_1 decode_65 first alone prefill --json "$parts/engine-$model.json"
    until=500
done

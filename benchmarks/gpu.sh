#!/usr/bin/env bash
# All that needs a GPU, in one call of under nine minutes, into one JSON file:
#
#   benchmarks/gpu.sh [--dry-run] [FILE or FOLDER]      (the default folder is benchmarks/results)
#
# - the kernels' tests, compiled for the GPU instead of interpreted
# - the engine's: its tokens with captured graphs and overlapped steps, what it compiles and what it waits for
# - every kernel's error, speed and part of the measured ceilings
# - what a step costs on the host, with and without overlap and graphs
# - the engine with a Qwen3-0.6B- and a Llama-8B-shaped random model and 256 requests at once, against
#   `transformers` with static and with continuous batches, and the part of the roof that its decode reaches
#
# It needs this repository and a Python (PYTHON=python3) with torch, triton, transformers and pytest; nothing is
# installed or fetched. Every part has a box of time; one that fails or runs over leaves what it has measured and
# never keeps the next from running. --dry-run takes the CPU and tiny sizes: it shows that the script works.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=src TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
python=${PYTHON:-python3}

device=cuda tests=(tests/kernels) steps=(Qwen3-0.6B 256) kernels=() models=(Qwen3-0.6B Llama-8B)
load=(--requests 256 --step-tokens 8192 --rounds 2)
if [ "${1-}" = --dry-run ]; then
    shift
    device=cpu tests=(tests/kernels/test_norm.py) steps=(tiny 4) kernels=(--small) models=(tiny)
    load=(--requests 4 --step-tokens 64 --rounds 1 --threads 1)
fi
to=${1-benchmarks/results}
parts=$(mktemp -d)
finish() {
    "$python" -m benchmarks.gather "$parts" "$to"
    rm -rf "$parts"
}
trap finish EXIT

part() { # NAME SECONDS COMMAND...
    local started=$SECONDS status=0
    echo "== $1"
    timeout --kill-after=15 "$2" "${@:3}" 2>&1 | tee "$parts/$1.log" || status=${PIPESTATUS[0]}
    printf '{"status": %d, "seconds": %d}\n' "$status" $((SECONDS - started)) >"$parts/$1.status"
}

workers=()
"$python" -c 'import xdist' 2>/dev/null && [ $device = cuda ] && workers=(-n 8)
pytest=("$python" -m pytest -c /dev/null --rootdir=. --import-mode=importlib -p no:cacheprovider -q)
part tests 105 "${pytest[@]}" ${workers[@]+"${workers[@]}"} "${tests[@]}"
part engine-tests 45 "${pytest[@]}" tests/engine/test_gpu.py
part kernels 80 "$python" -m benchmarks.kernels --device $device ${kernels[@]+"${kernels[@]}"} \
    --json "$parts/kernels.json"
part steps 45 "$python" -m benchmarks.steps --device $device --model "${steps[0]}" --requests "${steps[1]}" \
    --steps 100 --rounds 1 --json "$parts/steps.json"
seconds=105
for model in "${models[@]}"; do
    part "engine-$model" $seconds "$python" -m benchmarks.engine --device $device --model "$model" "${load[@]}" \
        --only headrace transformers_static transformers_continuous \
        --cases workload decode_1 decode_65 first alone prefill --json "$parts/engine-$model.json"
    seconds=145
done

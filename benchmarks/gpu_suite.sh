#!/usr/bin/env bash
# Everything that is to be measured on a GPU, cheapest first, each part with a time limit, the next one whatever became of the last:
#     benchmarks/gpu_suite.sh OUT [--device cuda] [--tiny]
# Writes each table to OUT as it grows, and prints it. At most 8 minutes on one H100. `--device cpu --tiny` tries it anywhere.
set -u
out=$(mkdir -p "$1" && cd "$1" && pwd) && shift
device=cuda tiny=()
while (($#)); do
  case $1 in
    --device) device=$2 && shift ;;
    --tiny) tiny=(--tiny) ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
  esac
  shift
done
cd "$(dirname "$0")/.." || exit
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0
[[ $device == cpu ]] && patience=4 || patience=1  # the limits below are a GPU's

# part NAME SECONDS COMMAND…
part() {
  local name=$1 limit=$(($2 * patience)) started=$SECONDS code
  shift 2
  printf '\n## %s\n\n' "$name" | tee -a "$out/suite.md"
  timeout --kill-after 5 "$limit" "$@" 2>>"$out/suite.err" | tee -a "$out/suite.md"
  code=${PIPESTATUS[0]}
  printf '\n%s s of %s, exit code %s\n' "$((SECONDS - started))" "$limit" "$code" | tee -a "$out/suite.md"
  ((code)) && failed=$((failed + 1))
}

if ((${#tiny[@]})); then
  epoch=(--device "$device" --videos 8 --rounds 1 --num-workers 1)
else
  epoch=(--device "$device" --network r2plus1d_18 --frames 16 --size 112 --batch-size 32 --num-workers 12 --videos 512 --rounds 3)
fi
tests=(tests/train/test_ahead.py tests/train/test_trainer.py)
((${#tiny[@]})) || tests+=(tests/train tests/models tests/distill tests/evaluate)

part "A student's epoch, and precompute" 50 python3 -m benchmarks.student_epoch "${epoch[@]}"
part 'The chain' 160 python3 -m benchmarks.gpu_chain --folder "$out/chain" --device "$device" --limit "$((60 * patience))" "${tiny[@]}"
part 'Training steps' 190 python3 -m benchmarks.gpu_training --device "$device" --seconds 3 "${tiny[@]}"
part 'Tests' 80 python3 -m pytest -q -m 'not slow' --device "$device" -p no:cacheprovider "${tests[@]}"
rm -rf "$out/chain"
printf '\n%s of 4 parts failed\n' "$failed" | tee -a "$out/suite.md"
exit "$((failed > 0))"

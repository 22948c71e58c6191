#!/bin/sh
# The missing paper-scale runs on a machine with a GPU and no network: data in, merged records out. See README.md here.
#
#   sh book/records/gpu.sh DATA OUTPUT [TIME [CHAPTER...]]
#
# DATA: folder with cifar10.npz and mnist.npz. OUTPUT: folder of the new records; the same folder goes on where it was.
# TIME: 8m, 2h, ...; 0 (the default) is until all are done. CHAPTER: in this order; by default all, in the order below.
# PRESET, DEVICE, WORKERS and PYTHON in the environment change the preset, the device, the runs at a time, the Python.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
if [ $# -lt 2 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
data=$1 output=$2 time=${3:-0}
shift "$(($# < 3 ? $# : 3))"
if [ $# -eq 0 ]; then  # first those whose verdict depends most on the papers' own scale
    set -- 01_lr_batch 03_sam 05_batch_norm 02_linear_scaling 04_dropout 08_progressive_sharpening 09_label_smoothing \
        06_weight_decay 07_adam_vs_sgd 10_minimum_sharpness 11_regularisers
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
flatlib() { "${PYTHON:-python3}" -m flatlib "$@"; }

mkdir -p "$output"
output=$(CDPATH='' cd -- "$output" && pwd)
status=0
flatlib run "$@" --no-notebook --preset "${PRESET:-paper}" --data "$data" --records "$output" --time-limit "$time" \
    --device "${DEVICE:-cuda}" --workers "${WORKERS:-1}" || status=$?
if ls "$output"/*/*.jsonl >/dev/null 2>&1; then
    flatlib records merge "$output" --output "$root/book/records"
fi
exit "$status"

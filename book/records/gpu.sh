#!/bin/sh
# The missing paper-scale runs on a machine with a GPU and no network: data in, merged records out. See README.md here.
#
#   sh book/records/gpu.sh DATA OUTPUT [TIME [LIST]]
#
# DATA: folder with cifar10.npz and mnist.npz. OUTPUT: folder of the new records; the same folder goes on where it was.
# TIME: 8m, 2h, ...; 0 (the default) is until all are done. LIST: from `flatlib plan`, for a machine without notebooks.
# PRESET, DEVICE, WORKERS and PYTHON in the environment change the preset, the device, the runs at a time, the Python.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
if [ $# -lt 2 ] || [ $# -gt 4 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
data=$1 output=$2 time=${3:-0} list=${4:-}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
flatlib() { "${PYTHON:-python3}" -m flatlib.cli "$@"; }

mkdir -p "$output"
if [ -z "$list" ]; then
    list=$output/list.jsonl
    flatlib plan all --preset "${PRESET:-paper}" --output "$list"
fi
status=0
flatlib sweep "$list" --data "$data" --records "$output" --time-limit "$time" \
    --device "${DEVICE:-cuda}" --workers "${WORKERS:-1}" || status=$?
if ls "$output"/*/*.jsonl >/dev/null 2>&1; then
    flatlib records merge "$output" --output "$root/book/records"
fi
exit "$status"

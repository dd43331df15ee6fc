#!/bin/bash
# What training costs on one GPU (H100 or H200), within ten minutes. It needs torch, lightning, transformers, omegaconf,
# numpy and pyarrow; accelerate for the Trainer of transformers; and takes liger-kernel if it is there. From a
# clone, phf installed or not:
#
#     bash benchmarks/gpu.sh [OPTIONS OF benchmarks/gpu.py]
#
# It has not run on a GPU yet. To try it without one:
#
#     DEVICE=cpu bash benchmarks/gpu.sh --model tiny --vocabulary 500 --context 16 --batches 2 4 --no-compile
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
device=${DEVICE:-gpu}

python benchmarks/gpu.py --accelerator "$device" "$@"
if [ "$device" = gpu ]; then
    python benchmarks/head.py --device cuda --dtype bfloat16 --tokens 16384
else
    python benchmarks/head.py --tokens 64 --width 16 --vocabulary 300 --repeats 1 --heads fused linear_cross_entropy
fi

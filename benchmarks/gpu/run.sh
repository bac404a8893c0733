#!/bin/bash
# The GPU programme on a machine that has PyTorch and a card but not all of our packages, and no network. From the
# checkout's root:
#   [STEPS="card smoke …"] bash benchmarks/gpu/run.sh [SECONDS, default 455]
# .whl (or $WHEELS) holds what benchmarks/gpu/wheels.sh made. Results are in $OUT (default /tmp/gpu_out).
set -u
BEGAN=$(date +%s); SECONDS_IN_ALL=${1:-455}
WHEELS=${WHEELS:-.whl}; PY=${PY:-python3}
export WORK=${WORK:-/tmp/gpu_work}  # nothing of it is wanted afterwards
export OUT=${OUT:-/tmp/gpu_out}; mkdir -p "$OUT" "$WORK"
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export TORCHINDUCTOR_CACHE_DIR=$WORK/inductor TRITON_CACHE_DIR=$WORK/triton TRUNKLINE_CACHE=$WORK/cache
export NCCL_SOCKET_IFNAME=lo GLOO_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export WHEELS=$(cd "$WHEELS" && pwd)

if [ -z "${SKIP_PIP:-}" ] && ls "$WHEELS"/*.whl >/dev/null 2>&1; then
  $PY -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$WORK/site" "$WHEELS"/*.whl 2>&1 | tail -3
fi
export PYTHONPATH=$WORK/site:$PWD

# the other commit's product under today's benchmarks
BEFORE=()
if [ -e "$WHEELS/base.tar.xz" ]; then
  rm -rf "$WORK/before"; mkdir -p "$WORK/before"
  $PY -m tarfile -e "$WHEELS/base.tar.xz" "$WORK/before" && cp -r benchmarks "$WORK/before/" && BEFORE=(--before "$WORK/before")
fi

SMI=
if command -v nvidia-smi >/dev/null; then
  nvidia-smi | head -15 | tee -a "$OUT/log.txt"
  nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active,memory.used \
    --format=csv,noheader -l 2 > "$OUT/smi.csv" 2>/dev/null & SMI=$!
fi
echo "set up in $(( $(date +%s) - BEGAN )) s"
$PY -m benchmarks.gpu --seconds $(( SECONDS_IN_ALL - ($(date +%s) - BEGAN) - 3 )) ${BEFORE[@]+"${BEFORE[@]}"} ${STEPS:-}
[ "$SMI" ] && kill "$SMI"
echo "in all $(( $(date +%s) - BEGAN )) s"

#!/bin/bash
# What the card reads, made here by the product's own commands: a store of real text, and the specs of every run there.
#     bash benchmarks/gpu/data.sh [FOLDER, default .whl]     leaves FOLDER/data.tar.xz (5 MB); some six minutes on 2 cores
# A trunk of twelve steps is trained here too, since an SFT is planned from its parent's checkpoint. Its losses go along,
# to be compared with the card's; its checkpoints do not, since the card trains its own parent.
set -euo pipefail
INTO=$(realpath -m "${1:-.whl}")
export TRUNKLINE_STORE=${STORE:-/tmp/gpu_data/store} RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} HF_HUB_OFFLINE=1
export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
PY=${PY:-.venv/bin/python}
HERE=$(dirname "$TRUNKLINE_STORE")
SPECS=$HERE/specs
mkdir -p "$INTO" "$TRUNKLINE_STORE" "$SPECS"

if [ ! -e "$TRUNKLINE_STORE/mixture/demo_stable/manifest.json" ]; then
  $PY -m workflows.corpus +experiment=demo
  $PY -m workflows.tokenize +experiment=demo
  $PY -m workflows.mixture +experiment=demo name=demo_stable mixture=demo_stable mixture.missing=drop
fi
for run in pretrain/gpu pretrain/straight pretrain/long pretrain/pocket sft/gpu dpo/gpu; do rm -rf "${TRUNKLINE_STORE:?}/$run"; done

ONE="cluster.workers=1 tracking.enabled=false monitor_every_steps=4 log_every_steps=1 zero.precision=bfloat16"
# heads of 64, as at 2.4B
SHAPE="model.layers=3 model.d_model=128 model.heads=2 model.kv_heads=1 batch.sequence_length=256 batch.global_batch=8"
# spec STAGE FILE OVERRIDES…: the spec of a run, for one worker
spec() { local stage=$1 file=$2; shift 2; $PY -m "workflows.$stage" +experiment=demo $ONE "$@" "write_spec=$SPECS/$file.json" | tail -1; }
here() { $PY -m torch.distributed.run --standalone --nproc_per_node=1 -m pipelines.train.worker "$1" | tail -3; }
# what of a run changes no result: in float32, uncompiled, is faster on a CPU
CPU="zero.precision=float32 compute.compile=off profile=false"
TRUNK="$SHAPE zero=zero1 checkpoint.every_steps=8 compute.compile=on"
# the first start to step 8, with a profile; the second resumes and goes on to 12; another run goes to 12 in one
spec pretrain gpu-8 name=gpu $TRUNK steps=8 profile=true "profile_steps=[3,5]"
spec pretrain straight name=straight $TRUNK steps=12
spec pretrain gpu-12 name=gpu $TRUNK steps=12
spec pretrain here name=gpu $TRUNK steps=12 $CPU
here "$SPECS/here.json"
CHILD="batch.sequence_length=256 batch.global_batch=8 batch.micro_batch=4 checkpoint.every_steps=4 zero=zero2 compute.compile=on"
spec sft sft name=gpu parent=pretrain/gpu@step-12 $CHILD steps=4
spec sft here name=gpu parent=pretrain/gpu@step-12 $CHILD steps=4 $CPU
here "$SPECS/here.json"
spec dpo dpo name=gpu parent=sft/gpu $CHILD steps=4 batch.micro_batch=2
# its reference pass would read every pair: minutes here, seconds there
# windows of 4,096 tokens, for the loader alone: nothing is trained with it
spec pretrain long name=long model.layers=1 model.max_positions=4096 batch.sequence_length=4096 batch.global_batch=16 \
  batch.micro_batch=4 steps=100
# the pocket model's shape on this text, which a GPU reads four times over: 25M tokens, the decay at the end of the trunk
$PY -m workflows.mixture +experiment=demo name=pocket_stable mixture=demo_stable mixture.budget_tokens=25165824 \
  "mixture.weights={sotu: 0.27, chitchat: 0.19, sanguo: 0.09, stdlib: 0.27, math-en: 0.11, math-zh: 0.07}" | tail -1
spec pretrain pocket name=pocket data=mixture/pocket_stable model=pocket model.vocabulary=4096 \
  batch.sequence_length=512 batch.global_batch=48 batch.micro_batch=48 steps=1024 zero=zero1 compute.compile=on \
  schedule.warmup_steps=32 schedule.decay=linear schedule.decay_steps=128 \
  checkpoint.every_steps=512 checkpoint.keep_last=1 log_every_steps=32 monitor_every_steps=64
rm "$SPECS/here.json"
$PY - "$TRUNKLINE_STORE" "$SPECS/here-losses.json" <<'P'
import json, sys
from pathlib import Path
rows = {
    run: [json.loads(line) for file in sorted(Path(sys.argv[1], run, "metrics").glob("*.jsonl")) for line in file.open()]
    for run in ("pretrain/gpu", "sft/gpu")
}
Path(sys.argv[2]).write_text(json.dumps({run: {r["step"]: r["loss"] for r in of if "loss" in r} for run, of in rows.items()}))
P
XZ_OPT=-6 tar cJf "$INTO/data.tar.xz" -C "$HERE" specs store/tokens/demo store/mixture store/pretrain/pocket/claim.json
ls -l "$INTO/data.tar.xz"

#!/bin/bash
# Fill a folder with what a GPU machine without a network lacks: wheels, by the pins of constraints.txt, and the code of
# another commit to compare with. From the checkout's root:
#   bash benchmarks/gpu/wheels.sh [FOLDER, default .whl] [COMMIT]
# The machine is taken to have Python 3.12, PyTorch with CUDA, transformers, NumPy, pytest and what those bring.
set -eu
FOLDER=${1:-.whl}; COMMIT=${2:-}
PY=${PY:-.venv/bin/python}
mkdir -p "$FOLDER"
pin() { grep -iE "^${1//[-_]/[-_]}==" constraints.txt || { echo "constraints.txt has no pin of $1" >&2; return 1; }; }

# with code of the machine's own Python in them; or pure, as wheels; the last two for a GPU: attention, products in 8 bits
for name in pydantic-core pydantic annotated-types typing-inspection typing-extensions hjson hydra-core omegaconf \
  nvidia-cudnn-frontend torchao; do
  $PY -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    -d "$FOLDER" "$(pin "$name")"
done
# given out as sources: made into pure wheels here, DeepSpeed without any of its C++
for name in antlr4-python3-runtime deepspeed; do
  ls "$FOLDER/${name//-/_}"-*.whl >/dev/null 2>&1 && continue
  DS_BUILD_OPS=0 $PY -m pip wheel -q --no-deps --no-build-isolation -w "$FOLDER" "$(pin $name)"
done
if [ "$COMMIT" ]; then
  git archive "$COMMIT" pipelines workflows conf pyproject.toml | xz > "$FOLDER/base.tar.xz"
fi
# git leaves the folder alone
exclude=$(git rev-parse --git-path info/exclude)
mkdir -p "$(dirname "$exclude")"
grep -qsx "/${FOLDER#./}/" "$exclude" || echo "/${FOLDER#./}/" >> "$exclude"
ls -l "$FOLDER"
du -sh "$FOLDER"

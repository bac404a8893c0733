"""Programs that run a delivered model: one file each, and this table. `contract.py` says what a row holds."""

from pipelines.train.runtimes import with_llama_cpp, with_transformers
from pipelines.train.runtimes.contract import Runtime

RUNTIMES: dict[str, Runtime] = {
    "transformers": with_transformers.RUNTIME,
    "llama_cpp": with_llama_cpp.RUNTIME,
}

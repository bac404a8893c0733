"""The formats that `workflows.export` writes.

Another is one file beside these and one row here; `contract.py` says what a row holds.
"""

from pipelines.train.formats import gguf, llama, minicpm, mlc, packed
from pipelines.train.formats.contract import Format

FORMATS: dict[str, Format] = {
    "llama": llama.FORMAT,
    "minicpm": minicpm.FORMAT,
    "gguf": gguf.FORMAT,
    "mlc": mlc.FORMAT,
    "compressed-tensors": packed.FORMAT,
}

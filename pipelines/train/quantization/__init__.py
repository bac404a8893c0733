"""Methods that make small whole numbers of a model's matrices, and the walk through its layers.

To add one: a file that ends with a `Method`, and a row here.
"""

from pipelines.train.quantization.awq import AWQ
from pipelines.train.quantization.contract import Method
from pipelines.train.quantization.gptq import GPTQ
from pipelines.train.quantization.rtn import RTN

METHODS: dict[str, Method] = {
    "rtn": RTN,
    "gptq": GPTQ,
    "awq": AWQ,
}

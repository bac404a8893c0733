"""llama.cpp's own server, as the package xllamacpp embeds it: `python -m pipelines.train.runtimes.llama_cpp_server`.

Enters: a GGUF file, a port, and the token in the environment. Leaves: an OpenAI-compatible endpoint and llama.cpp's
page on loopback, until the process is ended.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

TOKEN = "TRUNKLINE_SERVER_TOKEN"


def main() -> None:
    """Serve until SIGTERM. Arguments: file, name, port, positions, threads (0: the library's own choice of both)."""
    # by name, as those who check types need not have it
    xllamacpp: Any = importlib.import_module("xllamacpp")
    file, name, port, context, threads = sys.argv[1:]
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.model_alias = {name}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(port)
    parameters.n_ctx = int(context)
    parameters.api_keys = [os.environ.pop(TOKEN)]
    parameters.n_gpu_layers = 0
    parameters.ui = True
    if int(threads):
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(threads)
    server = xllamacpp.Server(parameters)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    # blocked before the library starts its threads, so that the signal comes to `sigwait`
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()

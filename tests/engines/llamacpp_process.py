"""The process of a llama.cpp server: its own C++ HTTP front, from the xllamacpp wheel, on 127.0.0.1 until SIGTERM. (IO)

python -m tests.engines.llamacpp_process MODEL.gguf ALIAS SLOTS      prints `ready http=HOST:PORT`
"""

from __future__ import annotations

import signal
import sys

import xllamacpp


def parameters(model: str, alias: str, slots: int) -> xllamacpp.CommonParams:
    """One thread on the CPU, 8192 tokens of context for each slot, port chosen by the system."""
    params = xllamacpp.CommonParams()
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.model.path = model
    params.model_alias = {alias}
    params.n_parallel = slots
    params.n_ctx = 8192 * slots
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_metrics = params.endpoint_slots = True
    params.ui = False
    return params


def main() -> None:
    model, alias, slots = sys.argv[1:4]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = xllamacpp.Server(parameters(model, alias, int(slots)))
    print("ready", server.listening_address.replace("http://", "http="), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()

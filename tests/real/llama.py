"""llama.cpp's own HTTP server in a process of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Self

from .processes import START_S, Process, wait_for

# One thread, so that other tests have a core left; one seed, so that the same question has the same answer.
_RUN = """
import sys, threading
import xllamacpp

model, slots, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path = model
params.n_parallel, params.n_ctx = slots, slots * context
params.port = 0
params.warmup = params.cache_prompt = False
params.endpoint_metrics = params.endpoint_slots = params.use_jinja = True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.sampling.seed, params.sampling.ignore_eos = 7, True
server = xllamacpp.Server(params)
print(f"listens on {server.listening_address}", flush=True)
threading.Event().wait()
"""


class LlamaServer(Process):
    """llama.cpp's server with a model file. Its dashboard is `/slots` and `/metrics`."""

    def __init__(self, folder: Path, model: Path, *, slots: int = 24, context: int = 8192) -> None:
        super().__init__("llama", [sys.executable, "-c", _RUN, str(model), str(slots), str(context)], folder)

    def __enter__(self) -> Self:
        super().__enter__()
        wait_for(self._is_healthy, "llama.cpp has loaded the model", START_S)
        return self

    def slots(self) -> list[dict[str, Any]]:
        return self.get_json("/slots")

    def busy(self) -> int:
        return sum(slot["is_processing"] for slot in self.slots())

    def tokens_predicted(self) -> int:
        found = re.search(r"^llamacpp:tokens_predicted_total (\S+)", self.get("/metrics").decode(), re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def _is_healthy(self) -> bool:
        try:
            return self.get_json("/health")["status"] == "ok"
        except OSError:
            assert self.popen.poll() is None, f"llama.cpp ended:\n{self.output()[-2000:]}"
            return False

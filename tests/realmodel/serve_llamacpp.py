"""Runs llama.cpp's own HTTP server, which is inside the wheel xllamacpp, on one GGUF file.

Prints `listening on URL` when requests may be sent; port 0 picks a free one. Ends at SIGTERM or SIGINT, and with
--until-stdin-closes also when the program that started it is gone.
"""

import argparse
import os
import signal
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-untyped]

MODEL = Path(__file__).parent / "tiny.gguf"


def parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.context
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.use_jinja = True
    params.endpoint_metrics = True
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    return params


def wait_for_end_of_stdin(stop: threading.Event) -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock, held by this thread, would spoil the interpreter's exit
        pass
    stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=8, help="slots; further requests wait")
    parser.add_argument("--context", type=int, default=4096, help="tokens per slot")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alias", default="tiny", help="the model's name in answers")
    parser.add_argument("--until-stdin-closes", action="store_true")
    options = parser.parse_args()
    server = xllamacpp.Server(parameters(options))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if options.until_stdin_closes:
        threading.Thread(target=wait_for_end_of_stdin, args=(stop,), daemon=True).start()
    print("listening on", server.listening_address, flush=True)  # noqa: T201 - whoever starts it waits for this line
    while not stop.wait(3600):
        pass


if __name__ == "__main__":
    main()

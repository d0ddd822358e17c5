"""Serve a GGUF file by llama.cpp's own server until standard input closes.

Run by its path in a process of its own, as `python -I llama_server.py FILE SLOTS THREADS TOKENS`:
it needs `xllamacpp` and nothing else, and a file that makes llama.cpp abort ends no other process.
It prints one line, the address that the server listens on.
"""

import sys

import xllamacpp


def main(file: str, slots: int, threads: int, tokens: int) -> None:
    """Serve `file` with so many requests at once, CPU threads, and tokens for each request."""
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

"""`alexnet-deploy` and `python` as commands that start at once: each call is forked from one process that has imported all.

The documentation runs some hundred commands; importing torch and onnx anew for each would take minutes. What runs is the
real command line: real arguments, folder, environment, streams and exit code, in a process of its own.

    python tests/warm.py server SOCKET        until its stdin is closed
    python tests/warm.py call SOCKET alexnet-deploy train --epochs 1
    python tests/warm.py call SOCKET python script.py
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

SLOW_TO_IMPORT = ("numpy", "onnx", "onnxruntime", "torch", "onnxscript", "openvino", "tensorrt_rtx", "pyarrow.parquet", "pandas")
OURS = ("alexnet_deploy", "training")


def call(socket_path: str, words: list[str]) -> int:
    """Asks the server to run `words` here, with these streams; the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(socket_path)
        request = json.dumps({"words": words, "cwd": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(request)
        answer = connection.recv(1)
    return answer[0] if answer else 128 + signal.SIGKILL


def serve(socket_path: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # for networks this small, waiting for a second thread takes longer than the work
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def warm_up() -> None:
    """All of ours, what they import, and what PyTorch imports only when an optimiser is made or a model exported: 4 s."""
    for name in SLOW_TO_IMPORT:
        with suppress(ImportError):
            importlib.import_module(name)
    for package in OURS:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith(".__main__"):
                with suppress(ImportError):
                    importlib.import_module(module.name)
    if torch := sys.modules.get("torch"):
        model = torch.nn.Linear(1, 1).eval()
        torch.optim.AdamW(model.parameters())
        with suppress(Exception):
            torch.onnx.export(model, (torch.zeros(1, 1),), io.BytesIO(), dynamo=True, verbose=False)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def _answer(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += connection.recv(1 << 16)
    asked = json.loads(request)
    for ours, theirs in enumerate(streams):
        os.dup2(theirs, ours)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    code = _run(asked["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([code]))
    os._exit(0)


def _run(words: list[str]) -> int:
    program, *sys.argv[1:] = words
    try:
        if program == "python":
            sys.argv = sys.argv[1:]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            from alexnet_deploy.cli import main

            main(prog_name=program)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", path]:
            serve(path)
        case ["call", path, *words]:
            sys.exit(call(path, words))

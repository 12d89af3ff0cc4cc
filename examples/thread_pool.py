"""Worker threads that share one Runtime: it may be called from several at once.

python examples/thread_pool.py models/alexnet.onnx photos/*.jpg
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from alexnet_deploy import AlexnetDeployError, Runtime


def main(model: str, files: list[str]) -> None:
    with Runtime(model, backend=os.environ.get("BACKEND")) as runtime, ThreadPoolExecutor(4) as pool:

        def classify(file: str) -> str:
            try:
                label, probability = runtime.classify([file], top=1)[0][0]
            except AlexnetDeployError as error:
                return f"{file}: {error}"
            return f"{file}: {label} ({probability:.1%})"

        for line in pool.map(classify, files):
            print(line)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

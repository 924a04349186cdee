"""The process that measures. It reads a request per line, {"part", "entry", "tiny", "images"}, and answers with a line of JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

MAX_LENGTH = 300  # characters of an error


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # all other output goes to stderr
    for line in sys.stdin:
        try:
            print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
        except BrokenPipeError:  # the process that asked was killed
            os._exit(1)


def answer(request: dict) -> dict:
    """The figures of a request, or {"error": one line}, with {"out_of_memory": True} if memory was lacking."""
    import jax

    from gpu_parts import part

    if not request["tiny"]:  # a program in the cache would have no time of compilation
        jax.config.update("jax_enable_compilation_cache", False)
    try:
        if request["part"] == "device":
            return device()
        return part(request["part"]).measure(request["entry"], request["tiny"], request["images"])
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        lacking = any(word in text for word in ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory"))
        return {"error": " ".join(text.split())[:MAX_LENGTH]} | ({"out_of_memory": True} if lacking else {})


def device() -> dict:
    """The device, the versions and the commit that figures belong to."""
    import flax
    import jax

    first = jax.local_devices()[0]
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "device": first.device_kind,
        "platform": first.platform,
        "devices": jax.local_device_count(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "commit": commit,
    }

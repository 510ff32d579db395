"""The process that serves: `python -m localllm.worker.child`, a JSON request on stdin.

It ends when its stdin does: nothing is left behind by a parent that was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from localllm.engine import build, rpc_server
from localllm.errors import ExitCode
from localllm.hardware import detect


def main() -> int:
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_until_alone, daemon=True).start()
    by_name = {device.name: device for device in build.devices()}
    chosen = [by_name[name] for name in request["devices"]]
    for device in chosen:
        if device.type == "cpu":
            rpc_server.tell_free_memory(build.device_handle(device.index), _available_bytes)
    handles = [build.device_handle(device.index) for device in chosen]
    rpc_server.serve(request["host"], request["port"], handles, request["threads"])
    return int(ExitCode.FAILED)  # it returns only where it cannot listen


def _available_bytes() -> int:
    return detect().memory.available_bytes


def _until_alone() -> None:
    sys.stdin.read()
    os._exit(int(ExitCode.OK))


if __name__ == "__main__":
    sys.exit(main())

"""A pretended NVIDIA driver: a small libnvidia-ml.so.1, compiled here, that pynvml loads.

pynvml finds the library through the dynamic loader, which reads LD_LIBRARY_PATH when a process
starts, so every scenario runs in a subprocess with `fake_nvml_env(...)` as (part of) its
environment. What the driver pretends is one environment variable; fake_nvml.c has its grammar.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

GIB = 1 << 30
MIB = 1 << 20

SCENARIOS = {
    "zero": "",
    "one": f"NVIDIA GeForce RTX 4090|{24564 * MIB}|{24000 * MIB}"
    "|bus=384|clock=10501|cc=8.9|limit=450000|power=31500|temp=36",
    "three": ";".join(
        [f"NVIDIA GeForce RTX 4060 Ti|{16380 * MIB}|{15900 * MIB}|bus=128|clock=9001"] * 3
    ),
    "lost": f"NVIDIA GeForce RTX 3090|{24576 * MIB}|{23982 * MIB}|bus=384|clock=9751;"
    f"NVIDIA GeForce RTX 3090|{24576 * MIB}|{23982 * MIB}|lost;"
    f"NVIDIA GeForce RTX 3060|{12288 * MIB}|{11900 * MIB}|bus=192|clock=7501",
    "mig": f"NVIDIA A100-SXM4-40GB|{40960 * MIB}|{39000 * MIB}|bus=5120|clock=1215|ecc=1|cc=8.0"
    f"|slice=NVIDIA A100-SXM4-40GB MIG 3g.20gb,{20096 * MIB},{20000 * MIB}"
    f"|slice=NVIDIA A100-SXM4-40GB MIG 1g.5gb,{4864 * MIB},{4800 * MIB}",
    "driver_not_loaded": "init=9",
    "version_mismatch": "init=18",
    "no_permission": "init=4",
    "unknown_error": "init=999",
}


def fake_nvml_env(tmp_path: Path, scenario: str) -> dict[str, str]:
    """Environment variables for a subprocess that is to see the pretended driver.

    `scenario` is a name of SCENARIOS, "no_driver", or a description of its own: for each GPU
    `NAME|TOTAL|FREE` in bytes, parted by `;` ("NVIDIA GeForce RTX 4090|25757220864|25000000000"),
    and what else fake_nvml.c takes (MIG, lost, hanging). Merge the result into os.environ.
    Skips the test where there is no C compiler or no Linux.
    """
    if sys.platform != "linux":
        pytest.skip("the pretended NVML is a Linux shared library")
    folder = tmp_path / "fake-nvml"
    folder.mkdir(exist_ok=True)
    # A file that is no library stops the loader's search: a real driver stays unseen.
    library = b"no library" if scenario == "no_driver" else _library()
    (folder / "libnvidia-ml.so.1").write_bytes(library)
    search = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(part for part in search if part),
        "FAKE_NVML": SCENARIOS.get(scenario, scenario),
    }


@cache
def _library() -> bytes:
    """The compiled library, built once in a test run."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the pretended NVML with")
    source = Path(__file__).with_name("fake_nvml.c")
    with TemporaryDirectory() as folder:
        built = Path(folder) / "libnvidia-ml.so.1"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-o", built],
            check=True,
        )
        return built.read_bytes()

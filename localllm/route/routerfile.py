"""A router as a file: numbers and text in a NumPy archive, never code.

An `.npz` (a zip of arrays) without pickled objects. `about` is JSON: the schema version, the
predictor's kind, the members, the calibration. Nothing in a file from elsewhere is run, and
nothing is believed: sizes are read from the zip's directory before anything is unpacked, then
names, types, shapes, ranges and finiteness are checked against each other, so that a damaged or
hostile file is DamagedFile and not a crash later, or a memory full of zeros.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from localllm.errors import DamagedFile, DiskFull, FileGone, HomeUnwritable, UsageProblem
from localllm.route.measuring.calibration import Calibration
from localllm.route.router import Router
from localllm.route.unpacking import Helper, predictor_from

SCHEMA = 1
MAX_BYTES = 256 * 2**20  # unpacked; a router of ten thousand prompts has about 20 MB
MAX_ARRAYS = 32
_MAX_ABOUT = 64 * 2**10
# What zipfile raises for bytes that are none: cut, encrypted, with impossible names or sizes
NO_ZIP = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError,
    OverflowError,
)  # fmt: skip
# What reading an array's header raises, which numpy hands to Python's own parser and tokenizer
NO_ARRAY = (
    ValueError, OverflowError, SyntaxError, TypeError, EOFError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def packed(router: Router) -> bytes:
    """The file's content."""
    arrays = router.predictor.arrays()
    about = {
        "schema": SCHEMA,
        "kind": router.predictor.kind,
        "weak": router.weak,
        "strong": router.strong,
        "slope": router.calibration.slope,
        "intercept": router.calibration.intercept,
        "n_trained": router.n_trained,
    }
    return pack_arrays({"about": np.array(json.dumps(about), dtype=np.str_), **arrays})


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays of numbers and text as one archive, which `read_arrays` reads back."""
    held = io.BytesIO()
    parts: dict[str, Any] = dict(arrays)
    np.savez_compressed(held, **parts)
    return held.getvalue()


def save(router: Router, path: Path) -> None:
    """Writes `path` whole or not at all."""
    content = packed(router)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise HomeUnwritable(f"{path.parent} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise DiskFull(f"{path} could not be written: {error.strerror}") from error


def load(path: Path, helper: Helper | None = None) -> Router:
    """Reads and checks a router. `helper` is needed by the kinds that have a model beside them.

    Raises FileGone, DamagedFile (naming what is wrong), UsageProblem for a newer schema or an
    helper that is missing or another one.
    """
    arrays = read_arrays(path)
    about = _about(arrays.pop("about", None), path)
    kind, members = about.get("kind"), (about.get("weak"), about.get("strong"))
    if not all(isinstance(name, str) and 0 < len(name) <= 1000 for name in (kind, *members)):
        raise DamagedFile(f"{path} is no whole router: its members or its kind are not named")
    slope, intercept = _number(about, "slope", path), _number(about, "intercept", path)
    if slope < 0:
        raise DamagedFile(f"{path}: a calibration does not turn the order of prompts round")
    n_trained = about.get("n_trained")
    if not isinstance(n_trained, int) or not 0 <= n_trained < 2**53:
        raise DamagedFile(f"{path}: n_trained is no count of prompts")
    try:
        predictor = predictor_from(str(kind), arrays, helper)
    except DamagedFile as problem:
        raise DamagedFile(f"{path}: {problem.message}") from problem
    return Router(
        str(members[0]), str(members[1]), predictor, Calibration(slope, intercept), n_trained
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array, after the zip's directory was seen to be of a sane size. Raises as `load`."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) != len(names) or len(names) > MAX_ARRAYS:
                raise DamagedFile(f"{path} is no router: it has too many parts, or one twice")
            if any(entry.compress_type not in _COMPRESSIONS for entry in entries):
                raise DamagedFile(f"{path} is no router: it is packed in an unknown way")
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise DamagedFile(f"{path} unpacks to more than {MAX_BYTES} bytes")
            return {
                entry.filename.removesuffix(".npy"): _array(archive, entry, path)
                for entry in entries
            }
    except FileNotFoundError as error:
        raise FileGone(f"there is no file {path}") from error
    except OSError as error:
        raise FileGone(f"{path} cannot be read: {error.strerror or error}") from error
    except NO_ZIP as error:
        raise DamagedFile(f"{path} is no router file: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(entry) as stream:
        # the directory may lie about the size: no more than it said is unpacked
        data = stream.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise DamagedFile(f"{path}: {entry.filename} is not of the size that the file says")
    held = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(held)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(held)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(held)
        else:
            raise DamagedFile(f"{path}: {entry.filename} is of an unknown array version")
        # said before numpy makes room for it: a header of a few bytes can ask for terabytes
        if dtype.kind not in "fiU" or math.prod(shape) * max(dtype.itemsize, 1) > len(data):
            raise DamagedFile(f"{path}: {entry.filename} is not an array of numbers or text")
        held.seek(0)
        array = np.asarray(np.lib.format.read_array(held, allow_pickle=False))
        if array.dtype.kind == "U" and not _all_characters(array):
            raise DamagedFile(f"{path}: {entry.filename} holds what is no character")
        return array
    except NO_ARRAY as error:
        raise DamagedFile(f"{path}: {entry.filename} is no array") from error


def _all_characters(array: np.ndarray) -> bool:
    """numpy makes Python texts of any four bytes, and such a text breaks whatever prints it."""
    if not array.nbytes:
        return True
    points = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
    return int(np.ascontiguousarray(array).reshape(-1).view(points).max()) <= sys.maxunicode


def _about(array: np.ndarray | None, path: Path) -> Mapping[str, Any]:
    if array is None or array.dtype.kind != "U" or array.shape or array.nbytes > 4 * _MAX_ABOUT:
        raise DamagedFile(f"{path} is no router file: it does not say what it is")
    try:
        about = json.loads(str(array))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is no router file: what it says of itself is no JSON") from error
    if not isinstance(about, dict) or type(about.get("schema")) is not int:
        raise DamagedFile(f"{path} is no router file: it has no schema version")
    if about["schema"] != SCHEMA:
        raise UsageProblem(
            f"{path} is a router of schema {about['schema']}, this program reads {SCHEMA}",
            "train it again, or take the version of localllm that made it",
        )
    return about


def _number(about: Mapping[str, Any], name: str, path: Path) -> float:
    value = about.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise DamagedFile(f"{path}: {name} is not a finite number")
    return float(value)


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of a thousand digits
        return False

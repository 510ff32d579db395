"""The machine's pip configuration: which indexes, and how they are reached.

Read by pip's own rules, without pip: asking it (`pip config list`) takes 0.3 to 0.45 s, a
fifth of pulling a model of 250 MB from a near index, and environments made by uv have none. A
test holds both to the same answer. The rules: global files, then the user's (or the one that
PIP_CONFIG_FILE names instead), then the environment's own; of the result the section
[global], then [download]; then the PIP_* variables. Later wins; empty is not given.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import InvalidConfig

DEFAULT_INDEX = "https://pypi.org/simple"
_SECTIONS = ("global", "download", ":env:")
_ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
_YES = ("1", "y", "yes", "t", "true", "on")


@dataclass(frozen=True)
class PipConfig:
    """What pip would use for `pip download`, in the order that pip asks them.

    `indexes` is empty with no-index. `find_links` are folders, pages or file: URLs.
    `timeout_s` is for connecting and for each read.
    """

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: Path | None = None
    client_cert: Path | None = None
    proxy: str | None = None
    timeout_s: float = 15.0
    constraints: tuple[str, ...] = ()


def read_pip_config(env: Mapping[str, str]) -> PipConfig:
    """pip's configuration under the variables `env`.

    Raises InvalidConfig for a file or a value that cannot be used, naming it.
    """
    return parse_pip_config(read_pip_values(env))


def _merge(entries: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """One value by name: [global], then [download], then the environment; later wins."""
    ranked: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for section, key, value in entries:
        if section in ranked:
            name = key.lower().replace("_", "-").removeprefix("--")
            ranked[section][_ALIASES.get(name, name)] = value
    return {
        key: value
        for section in _SECTIONS
        for key, value in ranked[section].items()
        if value.strip()  # an empty value hides weaker files, not weaker sections
    }


def read_pip_values(env: Mapping[str, str]) -> dict[str, str]:
    """The winning values by name from pip's files and the PIP_* variables."""
    entries: list[tuple[str, str, str]] = []
    for path in pip_files(env):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, UnicodeDecodeError, configparser.Error) as e:
            raise InvalidConfig(f"{path} cannot be read: {e}".splitlines()[0]) from None
        for section in parser.sections():
            entries += [(section, key, value) for key, value in parser.items(section)]
    for name, value in env.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            entries.append((":env:", name[4:], value))
    return _merge(entries)


def pip_files(env: Mapping[str, str]) -> tuple[Path, ...]:
    """pip's configuration files, weakest first, whether they exist or not."""
    own = env.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return ()
    home = Path.home()
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    if sys.platform == "win32":
        shared = [Path(env.get("PROGRAMDATA", r"C:\ProgramData")) / "pip"]
        user = [home / "pip", Path(env.get("APPDATA", home / "AppData/Roaming")) / "pip"]
    elif sys.platform == "darwin":
        shared = [Path("/Library/Application Support/pip")]
        support = home / "Library/Application Support/pip"
        user = [home / ".pip", support if support.is_dir() else home / ".config/pip"]
    else:
        xdg = [Path(p) / "pip" for p in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if p]
        shared = [*xdg, Path("/etc")]
        user = [home / ".pip", Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip"]
    if own and Path(own).exists():  # it stands in for the user's own
        user = []
    files = [folder / name for folder in (*shared, *user, Path(sys.prefix))]
    return (*files, Path(own)) if own else tuple(files)


def parse_pip_config(values: Mapping[str, str]) -> PipConfig:
    """The values by name as pip would read them. Raises InvalidConfig."""
    index = values.get("index-url", DEFAULT_INDEX)
    indexes = (index.strip(), *values.get("extra-index-url", "").split())
    proxy = values.get("proxy", "").strip()
    return PipConfig(
        indexes=() if _is_yes(values.get("no-index")) else tuple(dict.fromkeys(indexes)),
        find_links=tuple(values.get("find-links", "").split()),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        cert=_path(values.get("cert")),
        client_cert=_path(values.get("client-cert")),
        proxy=(proxy if "://" in proxy else f"http://{proxy}") if proxy else None,
        timeout_s=_seconds(values.get("timeout")),
        constraints=tuple(values.get("constraint", "").split()),
    )


def _is_yes(text: str | None) -> bool:
    return text is not None and text.strip().lower() in _YES


def _path(text: str | None) -> Path | None:
    return Path(text.strip()).expanduser() if text and text.strip() else None


def _seconds(text: str | None) -> float:
    if text is None:
        return PipConfig.timeout_s
    try:
        seconds = float(text)
    except ValueError:
        raise InvalidConfig(f"pip's timeout {text!r} is no number of seconds") from None
    if not 0 < seconds < 1e6:
        raise InvalidConfig(f"pip's timeout {text!r} is no number of seconds")
    return seconds

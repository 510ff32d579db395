"""Settings: flag > environment > config.toml > default. The only reader of os.environ.

`config.toml` lies in the home folder. Each setting has one row in `_SETTINGS`; a row gives
its name in the file, its environment variable, how its text is read and its default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.errors import InvalidConfig


@dataclass(frozen=True)
class Settings:
    """What a run uses where no flag says otherwise. Paths are absolute."""

    home: Path
    hf_endpoint: str
    offline: bool
    ollama_registry: str
    ollama_models: Path
    lmstudio_models: Path
    hf_cache: Path
    threads: int | None
    n_ctx: int | None
    no_color: bool
    save_chats: bool
    api_key: str | None
    rpc: tuple[str, ...] = ()

    @property
    def config_file(self) -> Path:
        return self.home / "config.toml"


def environment() -> Mapping[str, str]:
    """The process environment, for the few that hand it on (child processes, pip)."""
    return os.environ


def set_environment_default(name: str, value: str) -> None:
    """Set `name` for libraries that read it at import time, unless the user did."""
    os.environ.setdefault(name, value)


def hand_on(name: str, value: str) -> None:
    """Set `name` for the processes that this one starts."""
    os.environ[name] = value


def load(env: Mapping[str, str] | None = None, home: Path | None = None) -> Settings:
    """Read the settings. Touches nothing on disk but config.toml, and that only to read.

    Raises InvalidConfig, naming the file or variable and the setting.
    """
    env = os.environ if env is None else env
    home = _home(env) if home is None else home
    file_values = _read_toml(home / "config.toml")
    values: dict[str, Any] = {}
    for name, (variables, read, default) in _SETTINGS.items():
        variable = next((v for v in variables if env.get(v)), None)
        if variable is not None:
            values[name] = _read(read, env[variable], variable)
        elif name in file_values:
            values[name] = _read(read, file_values[name], f"{name} in {home / 'config.toml'}")
        else:
            values[name] = default(env) if callable(default) else default
    return Settings(home=home, **values)


def _home(env: Mapping[str, str]) -> Path:
    if given := env.get("LOCALLLM_HOME"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("localllm", appauthor=False)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InvalidConfig(f"{path} cannot be read: {e}", "mend or remove the file") from None
    if unknown := sorted(set(values) - set(_SETTINGS)):
        known = ", ".join(sorted(_SETTINGS))
        raise InvalidConfig(f"{path} has an unknown setting {unknown[0]!r}", f"known: {known}")
    return values


def _read(read: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return read(value)
    except (TypeError, ValueError):
        raise InvalidConfig(f"{where}: {value!r} cannot be used") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    text = text if "://" in text else f"https://{text}"
    if not text.startswith(("http://", "https://")):
        raise ValueError
    return text


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser().absolute()


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if (known := words.get(_text(value).strip().lower())) is None:
        raise ValueError
    return known


def _count(value: Any) -> int:
    if isinstance(value, bool) or int(value) < 1:
        raise ValueError
    return int(value)


def _addresses(value: Any) -> tuple[str, ...]:
    """A list, or its parts joined by commas."""
    parts = _text(value).split(",") if isinstance(value, str) else [_text(one) for one in value]
    return tuple(part.strip() for part in parts if part.strip())


def _hf_cache(env: Mapping[str, str]) -> Path:
    if home := env.get("HF_HOME"):
        return Path(home).expanduser().absolute() / "hub"
    cache = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "huggingface" / "hub"


def _under_home(*parts: str) -> Callable[[Mapping[str, str]], Path]:
    return lambda env: Path.home().joinpath(*parts)


_SETTINGS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any], Any]] = {
    "hf_endpoint": (("HF_ENDPOINT",), _url, "https://huggingface.co"),
    "offline": (("LOCALLLM_OFFLINE", "HF_HUB_OFFLINE"), _bool, False),
    "ollama_registry": (("LOCALLLM_OLLAMA_REGISTRY",), _url, "https://registry.ollama.ai"),
    "ollama_models": (("OLLAMA_MODELS",), _path, _under_home(".ollama", "models")),
    "lmstudio_models": (("LMSTUDIO_MODELS",), _path, _under_home(".lmstudio", "models")),
    "hf_cache": (("HF_HUB_CACHE",), _path, _hf_cache),
    "threads": (("LOCALLLM_THREADS",), _count, None),
    "n_ctx": (("LOCALLLM_N_CTX",), _count, None),
    # https://no-color.org: any non-empty value, so no _bool here
    "no_color": (("NO_COLOR",), lambda value: bool(value), False),
    "save_chats": (("LOCALLLM_SAVE_CHATS",), _bool, True),
    "api_key": (("LOCALLLM_API_KEY",), _text, None),
    "rpc": (("LOCALLLM_RPC",), _addresses, ()),
}

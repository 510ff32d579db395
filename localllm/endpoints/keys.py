"""Keys of endpoints: read when they are needed, and never shown.

A key comes from an environment variable or from the system's keyring. It is not kept in files,
and texts that servers send are cleared of it before anybody sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm import config
from localllm.errors import AccessDenied, MissingExtra, UsageProblem

SERVICE = "localllm"  # under which the keyring keeps them
_HIDDEN = "[key]"
_SHORTEST = 6  # what is shorter would be "found" in every other text


@dataclass(frozen=True)
class KeySource:
    """Where a key is: in the environment variable `env`, or in the keyring under `entry`."""

    env: str | None = None
    entry: str | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.entry is None):
            raise UsageProblem("a key comes from the environment or from the keyring")
        if self.env is not None and not _is_variable(self.env):
            raise UsageProblem(
                f"{_shown(self.env)} is no name of an environment variable",
                "--key-env OPENAI_API_KEY: the variable's name, not the key",
            )

    def __str__(self) -> str:
        if self.env is not None:
            return f"environment variable {self.env}"
        return f"keyring entry {SERVICE}/{self.entry}"


class Key:
    """A secret that does not print itself."""

    def __init__(self, text: str, source: KeySource) -> None:
        self._text = text
        self.source = source

    def __repr__(self) -> str:
        return f"Key(from {self.source})"

    @property
    def header(self) -> str:
        return f"Bearer {self._text}"

    def hide(self, text: str) -> str:
        """`text` without the key in it."""
        if len(self._text) < _SHORTEST:
            return text
        return text.replace(self._text, _HIDDEN)


def key_of(source: KeySource | None) -> Key | None:
    """Read the key. Raises AccessDenied where it is not there or is no key, MissingExtra."""
    if source is None:
        return None
    if source.env is not None:
        text = config.environment().get(source.env, "").strip()
        if not text:
            raise AccessDenied(
                f"the environment variable {source.env} holds no key", f"export {source.env}=..."
            )
    else:
        text = _from_keyring(source.entry or "")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise AccessDenied(f"what the {source} holds cannot be a key: it has other characters")
    return Key(text, source)


def _from_keyring(entry: str) -> str:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise MissingExtra(
            "keys from the system keyring need the package keyring",
            "pip install 'localllm[keyring]'",
        ) from None
    try:
        text = keyring.get_password(SERVICE, entry)
    except keyring.errors.KeyringError as error:
        lines = str(error).splitlines()
        raise AccessDenied(
            f"the system keyring cannot be read: {lines[0] if lines else type(error).__name__}",
            "--key-env NAME takes the key from the environment",
        ) from None
    if not text or not text.strip():
        raise AccessDenied(
            f"the system keyring has no key under {SERVICE}/{entry}",
            f"python -m keyring set {SERVICE} {entry}",
        )
    return text.strip()


def _is_variable(name: str) -> bool:
    return bool(name) and name.isascii() and name.isidentifier()


def _shown(text: str) -> str:
    """Somebody who gives the key in place of the variable's name must not find it in a log."""
    return f"{text[:3]!r}..." if len(text) > 8 else repr(text)

"""The package indexes of the machine's pip configuration, asked as pip asks them."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from packaging.utils import canonicalize_name

from localllm.config import Settings
from localllm.errors import DamagedFile, LocalLLMError, SourceFailed, SourceNotFound
from localllm.sources.base import require_online
from localllm.sources.http import HttpFetcher
from localllm.sources.pip_config import PipConfig
from localllm.sources.pypi_candidates import local_path
from localllm.sources.retry import Patience
from localllm.sources.simple_index import (
    ACCEPT,
    PAGE_LIMIT_BYTES,
    ProjectFile,
    folder_files,
    parse_page,
)
from localllm.sources.urls import basic_auth, host_of
from localllm.sources.wheel import Archive, ReadAt
from localllm.sources.wire import Wires

_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2")


class PackageIndex:
    """Project pages and wheels, from servers, folders and file: URLs alike.

    An index that fails is passed over, as pip does; its error is raised only where no other
    has the project.
    """

    def __init__(self, config: PipConfig, settings: Settings, env: Mapping[str, str]) -> None:
        self.config = config
        self._settings = settings
        self._logins = _Logins(env)
        bare = self._logins.take_from
        self._indexes = [bare(index) for index in config.indexes]
        self._find_links = [bare(place) for place in config.find_links]
        patience = Patience(connect_s=config.timeout_s, stall_s=max(30.0, config.timeout_s))
        wires = Wires(config.proxy, config.cert, config.client_cert, config.trusted_hosts)
        self.http = HttpFetcher(patience=patience, wires=wires)

    def files(self, name: str) -> list[ProjectFile]:
        """Every file of project `name` (canonical): find-links first, as in pip, then indexes.

        Raises SourceFailed and the like where nothing was found and an index failed.
        """
        pages = [(_page_of(index, name), False) for index in self._indexes]
        found: list[ProjectFile] = []
        failure: LocalLLMError | None = None
        for place, is_links in [*((p, True) for p in self._find_links), *pages]:
            try:
                files = self._listed(place, is_links)
            except SourceNotFound:
                continue
            except (SourceFailed, DamagedFile) as e:
                failure = failure or e
                continue
            found += [file for file in files if _belongs(file, name)]
        if not found and failure is not None:
            raise failure
        return found

    def archive(self, file: ProjectFile) -> Archive:
        """A wheel looked into where it lies: usually one range read."""
        size = file.size_bytes
        if size is None:
            size = self._size(file)
        return Archive(self.reader(file.url), size, file.filename)

    def reader(self, url: str) -> ReadAt:
        """Range reads of the file at `url`."""
        path = local_path(url)
        if path is None:
            self.require(url)
            headers = self.headers(url)
            return lambda start, length: self.http.read_range(url, start, length, headers)

        def read(start: int, length: int) -> bytes:
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(length)
            except OSError as e:
                raise SourceNotFound(f"{path} cannot be read: {e.strerror}") from None

        return read

    def headers(self, url: str) -> dict[str, str]:
        """The login for `url`, if there is one. It is never part of a URL, so that neither a
        message nor a journal shows it, and it does not follow a redirect to another host."""
        return self._logins.headers(url)

    def _size(self, file: ProjectFile) -> int:
        path = local_path(file.url)
        if path is None:
            self.require(file.url)
            size = self.http.head(file.url, self.headers(file.url)).size_bytes
            if size is None:
                raise SourceFailed(f"{host_of(file.url)} does not say how large {file.filename} is")
            return size
        try:
            return path.stat().st_size
        except OSError as e:
            raise SourceNotFound(f"{path} cannot be read: {e.strerror}") from None

    def _listed(self, place: str, is_links: bool) -> tuple[ProjectFile, ...]:
        path = local_path(place)
        if path is None:
            return self._page(place)
        try:
            if is_links and path.is_dir():
                return folder_files(path)
            if is_links and path.name.endswith(_ARCHIVES):
                return (ProjectFile(path.name, path.absolute().as_uri()),)
            page = path / "index.html" if path.is_dir() else path
            return parse_page(page.read_bytes(), "text/html", page.absolute().as_uri())
        except FileNotFoundError:
            raise SourceNotFound(f"{path} does not exist") from None
        except OSError as e:
            raise SourceFailed(f"{path} cannot be read: {e.strerror}") from None

    def _page(self, url: str) -> tuple[ProjectFile, ...]:
        self.require(url)
        headers = {"Accept": ACCEPT, **self.headers(url)}
        page = self.http.get(url, headers, limit_bytes=PAGE_LIMIT_BYTES)
        files = parse_page(page.body, page.headers.get("content-type", "text/html"), page.url)
        return tuple(replace(f, url=self._logins.take_from(f.url)) for f in files)

    def require(self, url: str) -> None:
        """Raise OfflineMode where `url` needs the network and that is switched off."""
        if local_path(url) is None:
            require_online(self._settings, host_of(url))


class _Logins:
    """Users and passwords by host: those written into URLs, else those of .netrc."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._by_host: dict[str, str] = {}
        self._netrc: netrc.netrc | None = None
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            self._netrc = netrc.netrc(env.get("NETRC") or None)

    def take_from(self, url: str) -> str:
        """`url` without the login in it, which is kept for its host."""
        if local_path(url) is not None:
            return url
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        if login:
            user, _, password = login.partition(":")
            self._by_host.setdefault(host, basic_auth(user, password))
        return urlunsplit(parts._replace(netloc=host))

    def headers(self, url: str) -> dict[str, str]:
        parts = urlsplit(url)
        login = self._by_host.get(parts.netloc)
        known = self._netrc.authenticators(parts.hostname or "") if self._netrc else None
        if login is None and known is not None:
            login = basic_auth(quote(known[0] or ""), quote(known[2] or ""))
        return {"Authorization": login} if login else {}


def _page_of(index: str, name: str) -> str:
    """The page of project `name` in `index`, a URL or a path."""
    path = local_path(index)
    return str(path / name) if path is not None else urljoin(index.rstrip("/") + "/", f"{name}/")


def _belongs(file: ProjectFile, name: str) -> bool:
    """False for files of other projects, which find-links and careless pages list too."""
    return canonicalize_name(file.filename).startswith(f"{name}-")

"""What the operating system refused, in the user's terms."""

from __future__ import annotations

import errno

from localllm.errors import DiskFull, FileGone, HomeUnwritable, LocalLLMError


def translate(error: OSError) -> LocalLLMError:
    """An OSError that no room expected as the error that names it."""
    where = error.filename if error.filename is not None else "the output"
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left for {where}", "localllm prune, or free disk space")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return HomeUnwritable(f"{where}: {reason}", "set LOCALLLM_HOME to a folder you may write")
    if error.errno == errno.ENOENT:
        return FileGone(f"{where}: {reason}")
    return LocalLLMError(f"{where}: {reason}")

"""python -m localllm, and the `localllm` script."""

import os
import sys


def run() -> None:
    """Exit with main's status. Nothing after it may change the status or print.

    The interpreter flushes stdout once more while it ends; where the reader is gone or the
    device full that would print a traceback over an error that was already said.
    """
    try:
        from localllm.cli import main
    except KeyboardInterrupt:  # typed while Python was still reading the program
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    status = main()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        from localllm.ui.sink import close_quietly

        close_quietly()
        os._exit(status or 1)
    sys.exit(status)


if __name__ == "__main__":
    run()

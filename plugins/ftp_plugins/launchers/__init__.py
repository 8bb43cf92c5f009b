"""Built-in launchers."""

import ftp
from ftp_plugins.launchers.local import Local


@ftp.hookimpl
def ftp_launchers() -> dict[str, type[ftp.Launcher]]:
    return {"local": Local}

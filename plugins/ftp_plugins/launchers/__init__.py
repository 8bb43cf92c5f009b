"""Built-in launchers."""

import ftp
from ftp_plugins.launchers.kubernetes import Kubernetes
from ftp_plugins.launchers.local import Local
from ftp_plugins.launchers.skypilot import SkyPilot
from ftp_plugins.launchers.slurm import Slurm


@ftp.hookimpl
def ftp_launchers() -> dict[str, type[ftp.Launcher]]:
    return {"kubernetes": Kubernetes, "local": Local, "skypilot": SkyPilot, "slurm": Slurm}

"""Several processes on this machine."""

from __future__ import annotations

import ftp
from ftp_plugins.launchers.local_options import LocalOptions


class Local(LocalOptions):
    """Processes on this machine, one for each GPU, by torchrun's elastic agent. After a failure they resume the run."""

    def launch(self, job: ftp.Launch) -> int:
        from ftp_plugins.launchers.torch_local import launch

        return launch(self, job)

"""A job of SLURM."""

from __future__ import annotations

import ftp
from ftp_plugins.launchers.slurm_options import SlurmOptions


class Slurm(SlurmOptions):
    """A job of SLURM, by submitit: submits it, shows its output, and resumes the run after time limit and preemption.

    This directory, the run's directory and the Python environment have to be on file systems that all nodes share.
    Ctrl-C leaves the job and says how to stop it.
    """

    def launch(self, job: ftp.Launch) -> int:
        from ftp_plugins.launchers.slurm_submission import follow, submit

        return follow(self, submit(self, job), job)

"""Curators: they decide which rows are trained on."""

from __future__ import annotations

import ftp
from ftp_plugins.curators.decontaminate import Decontaminate
from ftp_plugins.curators.dedupe import Dedupe
from ftp_plugins.curators.mix import Mix
from ftp_plugins.curators.quality import Quality
from ftp_plugins.curators.split import Split


@ftp.hookimpl
def ftp_curators() -> dict[str, type[ftp.Curator]]:
    return {"mix": Mix, "quality": Quality, "dedupe": Dedupe, "split": Split, "decontaminate": Decontaminate}

"""Adapters: they decide which weights train."""

from __future__ import annotations

import ftp
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.peft import PEFT
from ftp_plugins.adapters.qlora import QLoRA


@ftp.hookimpl
def ftp_adapters() -> dict[str, type[ftp.Adapter]]:
    return {"full": Full, "lora": LoRA, "peft": PEFT, "qlora": QLoRA}

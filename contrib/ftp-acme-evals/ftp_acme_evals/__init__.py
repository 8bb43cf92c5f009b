"""Acme's house components for FTP: an evaluator, a formatter and a loader."""

from __future__ import annotations

import ftp
from ftp_acme_evals.citations import Citations
from ftp_acme_evals.store import Store
from ftp_acme_evals.tickets import Tickets


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"acme_citations": Citations}


@ftp.hookimpl
def ftp_formatters() -> dict[str, type[ftp.Formatter]]:
    return {"acme_tickets": Tickets}


@ftp.hookimpl
def ftp_loaders() -> dict[str, type[ftp.Loader]]:
    return {"acme_store": Store}

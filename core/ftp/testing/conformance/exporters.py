"""What FTP relies on in an exporter."""

from __future__ import annotations

from typing import get_args

from ftp.components import Exporter
from ftp.options import Proof
from ftp.testing.conformance.common import attempt, fail
from ftp.types import Weights


def check_exporter(exporter: Exporter) -> None:
    """Check that an exporter says which model it has to equal and how near it has to come."""
    cls = type(exporter)
    if exporter.weights not in get_args(Weights):
        fail(cls, f"weights is {exporter.weights!r}; it has to be one of {', '.join(get_args(Weights))}.")
    proof = attempt(cls, exporter.usual_proof)
    if not isinstance(proof, Proof):
        fail(cls, f"usual_proof has to return an ftp.Proof; it returned {proof!r}.")
    if proof.kl is None or proof.top1 is None:
        fail(cls, "usual_proof gives no bounds for kl and top1, so an export that is wrong could pass.")

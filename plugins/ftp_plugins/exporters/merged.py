"""The whole model as Hugging Face files, with the trained weights merged into the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

import ftp
from ftp_plugins.exporters.card import write_card


def _no_4_bits(value: object) -> object:
    if value in ("4bit", "nf4", "fp4"):
        raise ValueError(
            "merging into 4 bits would round the training away: the update is smaller than the steps of 4-bit weights; "
            "say measured, and quantise the merged model as a whole (`ftp export RUN gguf`)"
        )
    return value


class Merged(ftp.Exporter):
    """The whole model as safetensors: any program that loads Hugging Face models loads it.

    With qlora the training is merged into the dequantised base, which is the model that was evaluated.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "safetensors")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: the one that the run computed in."""
    shard_size: str = Field(default="5GB", pattern=r"^\d+(MB|GB)$")
    """Largest file of weights: `500MB`, `5GB`."""
    base: Annotated[Literal["measured", "original"], BeforeValidator(_no_4_bits)] = "measured"
    """What the training is merged into. measured: the base as it was evaluated, dequantised where it was quantised.
    original: the base before it was quantised; that is another model, and is marked as not evaluated."""

    @property
    def weights(self) -> ftp.Weights:
        return "original" if self.base == "original" else "plain"

    def usual_proof(self) -> ftp.Proof:
        # Rounding to 16 bits, by the export or by the run itself, costs up to 0.0012 and 3.1% of the next tokens.
        return ftp.Proof(kl=0.002, top1=0.95)

    def rehearse(self, base: ftp.LoadedModel, whole: bool) -> int:
        from ftp.lm.torch_merge import bytes_of, check_mergeable

        check_mergeable(base)
        return bytes_of(base.model, base.request.dtype if self.dtype == "auto" else self.dtype)

    def export(self, job: ftp.ExportJob) -> Path:
        from ftp.lm.torch_merge import merged, save

        loaded = job.load(self.weights)
        dtype = loaded.request.dtype if self.dtype == "auto" else self.dtype
        save(merged(loaded), loaded.tokenizer, job.directory, dtype, self.shard_size)
        return job.directory

    def reopen(self, job: ftp.ExportJob, path: Path) -> ftp.Exported:
        from ftp_plugins.exporters.torch_reopen import with_transformers

        return with_transformers(path)

    def finish(self, job: ftp.ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        lines = [
            "import transformers",
            'model = transformers.AutoModelForCausalLM.from_pretrained("PATH")',
            'tokenizer = transformers.AutoTokenizer.from_pretrained("PATH")',
        ]
        write_card(job, record, "transformers", "python", lines)

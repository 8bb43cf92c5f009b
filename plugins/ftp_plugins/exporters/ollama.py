"""A Modelfile for Ollama, beside the GGUF file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import ftp
from ftp_plugins.exporters.card import write_card
from ftp_plugins.exporters.gguf import GgufFile
from ftp_plugins.exporters.turn_template import TurnTemplate, turn_template


class Ollama(GgufFile):
    """A GGUF file and the Modelfile for it: template, stops and parameters, so that Ollama answers as the run did.

    The comparison is made with the template of the Modelfile.
    """

    temperature: float = Field(default=0.0, ge=0)
    """What `PARAMETER temperature` says. 0: the likeliest token, as the run was evaluated."""

    def problems(self) -> list[str]:
        found = super().problems()
        if self.content == "adapter":
            found.append("content: Ollama is given the whole model; take `content` out")
        return found

    def rehearse(self, base: ftp.LoadedModel, whole: bool) -> int:
        template_for_ollama(base.tokenizer)
        return super().rehearse(base, whole)

    def reopen(self, job: ftp.ExportJob, path: Path) -> ftp.Exported:
        exported = super().reopen(job, path)
        template = template_for_ollama(job.tokenizer.tokenizer)

        def encode(example: ftp.Example) -> Sequence[int]:
            return exported.encode_text(template.write(example.prompt))

        return dataclasses.replace(exported, encode=encode)

    def finish(self, job: ftp.ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        tokenizer, stops = job.tokenizer.tokenizer, job.tokenizer.stops
        answers = job.run.recipe.get("answers", {})
        lines = [
            f"FROM ./{path.name}",
            f'TEMPLATE """{template_for_ollama(tokenizer).in_go()}"""',
            *(f"PARAMETER stop {json.dumps(tokenizer.decode([stop]), ensure_ascii=False)}" for stop in stops),
            f"PARAMETER temperature {self.temperature:g}",
            f"PARAMETER num_predict {answers.get('max_new_tokens', 256)}",
        ]
        (job.directory / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
        name = job.run.name.lower()
        write_card(job, record, "gguf", "sh", [f"ollama create {name} -f PATH/Modelfile", f"ollama run {name}"])


def template_for_ollama(tokenizer: Any) -> TurnTemplate:
    """Return the template of a tokenizer, without the BOS that Ollama puts before a prompt where the file says so.

    Raises:
        ModelError: it isn't of a kind that a Modelfile can hold.
    """
    found = turn_template(tokenizer)
    adds_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return found.without_bos(tokenizer.bos_token) if adds_bos else found

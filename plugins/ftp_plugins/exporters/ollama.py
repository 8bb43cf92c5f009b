"""A Modelfile for Ollama, beside the GGUF file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

import ftp
from ftp.data.examples import shared_system
from ftp.lm.rendering import prompt_ids
from ftp_plugins.exporters.card import write_card
from ftp_plugins.exporters.gguf import GgufFile
from ftp_plugins.exporters.turn_template import TurnTemplate, turn_template


class Ollama(GgufFile):
    """A GGUF file and the Modelfile for it: template, stops and parameters, so that Ollama answers as the run did.

    The comparison is made with the template of the Modelfile. A system turn with which all eval prompts begin becomes
    the Modelfile's SYSTEM.
    """

    temperature: float = Field(default=0.0, ge=0)
    """What `PARAMETER temperature` says. 0: the likeliest token, as the run was evaluated."""
    num_ctx: int | None = Field(default=None, ge=1)
    """Tokens that Ollama keeps of a conversation; it drops older turns without a word. Default: 4096, or more where the
    longest eval prompt with its answer needs it."""

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
            return exported.encode_text(template.write(joined(example.prompt)))

        return dataclasses.replace(exported, encode=encode)

    def finish(self, job: ftp.ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        (job.directory / "Modelfile").write_text("\n".join(self._modelfile(job, path)) + "\n", encoding="utf-8")
        name = job.run.name.lower()
        write_card(job, record, "gguf", "sh", [f"ollama create {name} -f PATH/Modelfile", f"ollama run {name}"])

    def _modelfile(self, job: ftp.ExportJob, path: Path) -> list[str]:
        """Return the lines of the Modelfile. Quotes in it end at the next ones: nothing is escaped."""
        tokenizer, stops = job.tokenizer.tokenizer, job.tokenizer.stops
        most = int(job.run.recipe.get("answers", {}).get("max_new_tokens", 256))
        own = job.run.recipe["data"].get("evals", {})  # not those that evaluators bring
        asked = [example for view in job.run.views if view.name in own for example in view.examples if example.messages]
        longest = max((len(prompt_ids(tokenizer, example)) for example in asked), default=0)
        system = system_of(asked)
        return [
            f"FROM ./{path.name}",
            f'TEMPLATE """{template_for_ollama(tokenizer).in_go()}"""',
            *([f'SYSTEM """{system}"""'] if system else []),
            *(f'PARAMETER stop "{tokenizer.decode([stop])}"' for stop in stops),
            f"PARAMETER temperature {self.temperature:g}",
            "PARAMETER repeat_penalty 1",  # of its own accord 1.1 in older versions
            f"PARAMETER num_ctx {self.num_ctx or context_for(longest + most, path)}",
            f"PARAMETER num_predict {most}",
        ]


def joined(messages: Sequence[ftp.Message]) -> list[ftp.Message]:
    """Return turns as Ollama hands them to a template: those of one role that follow each other are one."""
    found: list[ftp.Message] = []
    for message in messages:
        if found and found[-1].role == message.role != "tool":
            message = dataclasses.replace(message, content=f"{found.pop().content}\n\n{message.content}")
        found.append(message)
    return found


def system_of(examples: Sequence[ftp.Example]) -> str:
    """Return the system turn with which all prompts begin; empty where they differ or a Modelfile can't hold it."""
    text = shared_system(examples)
    printable = all(letter.isprintable() or letter in "\n\t" for letter in text)  # Ollama's parser drops the rest
    return text if printable and '"""' not in text else ""


def context_for(needed: int, file: Path) -> int:
    """Return a window for so many tokens: a power of two from 4096 on, and no more than the model in a file has."""
    from ftp_plugins.exporters.gguf.torch_read import fields_of

    fields = fields_of(file)
    most = int(fields[f"{fields['general.architecture']}.context_length"])
    return min(most, max(4096, 1 << (needed - 1).bit_length()))


def template_for_ollama(tokenizer: Any) -> TurnTemplate:
    """Return the template of a tokenizer, without the BOS that Ollama puts before a prompt where the file says so.

    Raises:
        ModelError: it isn't of a kind that a Modelfile can hold.
    """
    found = turn_template(tokenizer)
    adds_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return found.without_bos(tokenizer.bos_token) if adds_bos else found

"""The model card, with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import ftp
from ftp.files import digest, without_controls
from ftp.runs.directory import RunDirectory
from ftp_plugins.reporters import tables
from ftp_plugins.reporters.export_tables import parity_row
from ftp_plugins.reporters.tables import figure, rows_of, signed

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelCard(ftp.Reporter):
    """README.md of the run and of its model directory: what the model is, its training, results and limits.

    The header has the hub's metadata, with a `model-index` of the tuned model's results. Figures on eval sets from
    the hub are also written into `.eval_results/` of the model directory, where the hub looks for them. A licence is
    not stated: who owns the training rows is for the user to say.
    """

    requires: ClassVar[tuple[str, ...]] = ("huggingface_hub", "jinja2")

    def report(self, run: ftp.FinishedRun) -> Path:
        text, directory = card_of(run), RunDirectory(run.directory)
        if directory.place("model").is_dir():  # not where a model was evaluated without training
            directory.write_text("model/README.md", text)
            self._write_eval_results(run, directory)
        return directory.write_text("README.md", text)

    def _write_eval_results(self, run: ftp.FinishedRun, directory: RunDirectory) -> None:
        """Write a file for each figure on an eval set from the hub, in the hub's format.

        See hub-docs, eval_results.yaml.
        """
        import huggingface_hub
        import yaml

        for source, line in _on_hub_sets(run):
            entry = huggingface_hub.EvalResultEntry(
                dataset_id=source["hub"],
                task_id=line["name"].replace(" ", "_"),
                value=round(line["tuned"], 6),
                dataset_revision=source.get("revision"),
                notes=f"{line['name']} on split {source.get('split') or 'train'}, {_against_base(line)}",
            )
            text = yaml.safe_dump(huggingface_hub.eval_result_entries_to_yaml([entry]), sort_keys=False)
            directory.write_text(f"model/.eval_results/{file_name(line['evals'], line['name'])}.yaml", text)


def file_name(*parts: str) -> str:
    """Return a plain file name for names that others chose; one that had to be changed gets a digest, to stay unique.

    A metric's name may hold slashes, dots and anything else.
    """
    name = "-".join(parts).replace(" ", "-")
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:100].lstrip(".")
    return plain if plain == name else f"{plain}-{digest(parts)[:8]}"


def _eval_source(run: ftp.FinishedRun, name: str) -> dict[str, Any]:
    """Return the source of an eval set; nothing for one that an evaluator brought or that was held out of the rows."""
    source = run.recipe["data"].get("evals", {}).get(name, {})
    return source if isinstance(source, dict) else {}


def card_of(run: ftp.FinishedRun, library: str = "", section: str = "") -> str:
    """Return the model card of a run, with the metadata that the hub reads.

    Args:
        library: what loads the model, as the hub names it. Default: what loads the run's model directory.
        section: Markdown to put in place of how the run's model directory is loaded.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=plain)
    environment.filters |= {"figure": figure, "signed": signed}
    template = environment.from_string((files("ftp_plugins.reporters") / "model_card.md.j2").read_text("utf-8"))
    rows = rows_of(run.evaluations)
    _, sentence = tables.headline([r for e in run.evaluations if not tables.is_general(run, e) for r in rows_of([e])])
    if not section and (run.directory / "model").is_dir():
        lines = ["## Load it", "", "From the run's directory, with plain transformers:", "", "```python"]
        section = "\n".join([*lines, *load_lines(run, "model"), "```"])
    card = template.render(
        run=run,
        rows=rows,
        sentence=sentence if rows else "",
        adjustment=tables.adjustment(rows),
        unscored=unscored(run),
        measures=tables.validation_measures(run),
        lineage=tables.lineage_of(run),
        exports=[parity_row(record) for record in run.exports],
        loading=Markup(section),  # code, which is not to be escaped
    )
    return f"---\n{without_controls(metadata(run, library))}\n---\n\n{card}"


def load_lines(run: ftp.FinishedRun, where: str) -> list[str]:
    """Return three lines of Python that load the model of a run as it was evaluated, with transformers and peft alone.

    Args:
        where: its directory, as it is to stand there.
    """
    model = run.lock["model"]
    whole = not (run.directory / "model" / "adapter_config.json").is_file()
    quantization = model.get("quantization")
    options = f'"{where}", dtype="{model["dtype"]}"'
    if quantization:
        settings = (
            {"load_in_8bit": True}
            if quantization["scheme"] == "int8"
            else {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": quantization["scheme"],
                "bnb_4bit_use_double_quant": quantization["double"],
                "bnb_4bit_compute_dtype": quantization["compute_dtype"],
            }
        )
        options += f", quantization_config=transformers.BitsAndBytesConfig(**{settings})"
    loader = "transformers.AutoModelForCausalLM" if whole else "peft.AutoPeftModelForCausalLM"
    return [
        "import transformers" if whole else "import peft, transformers",
        f"model = {loader}.from_pretrained({options})",
        f'tokenizer = transformers.AutoTokenizer.from_pretrained("{where}")',
    ]


def metadata(run: ftp.FinishedRun, library: str = "") -> str:
    """Return the YAML header: what the hub can link and list. What isn't known, or isn't on the hub, is left out."""
    import huggingface_hub

    adapter, sources = run.recipe["adapter"]["use"], run.recipe["data"]
    results = []
    for line in rows_of(run.evaluations):
        if not math.isfinite(line["tuned"]):
            continue
        source = _eval_source(run, line["evals"])
        results.append(
            huggingface_hub.EvalResult(
                task_type="text-generation",
                dataset_type=source.get("hub") or "private",
                dataset_name=line["evals"],
                dataset_split=source.get("split"),
                dataset_revision=source.get("revision"),
                metric_type=line["name"].replace(" ", "_"),
                metric_name=f"{line['name']} ({line['better']} is better; {_against_base(line)})",
                metric_value=round(line["tuned"], 6),
            )
        )
    hub = [source["hub"] for source in sources.get("train", []) if source.get("hub")]
    base = run.recipe["model"].get("id", "")
    data = huggingface_hub.ModelCardData(
        base_model=base if HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        datasets=list(dict.fromkeys(hub)) or None,
        library_name=library or ("transformers" if adapter == "full" else "peft"),
        pipeline_tag="text-generation",
        tags=["ftp", adapter, run.recipe["train"]["use"]],
        model_name=run.name,
        eval_results=results or None,
    )
    return data.to_yaml()


def unscored(run: ftp.FinishedRun) -> list[str]:
    """Return what the figures leave out, in words."""
    found = []
    for evaluation in run.evaluations:
        share = evaluation.panel.get("unscored")
        if isinstance(share, float) and share > 0:
            found.append(f"{evaluation.evaluator} on {evaluation.evals}: {share:.1%} unscored")
    return found


def _on_hub_sets(run: ftp.FinishedRun) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    for line in rows_of(run.evaluations):
        source = _eval_source(run, line["evals"])
        if source.get("hub") and line["difference"] and math.isfinite(line["tuned"]):
            yield source, line


def _against_base(line: Mapping[str, Any]) -> str:
    found, base = line["difference"], f"base {figure(line['base'])}, n={line['n']}"
    if found is None:
        return base
    return f"{base}, difference {signed(found.mean)}, 95% interval {signed(found.low)} to {signed(found.high)}"


def plain(value: object) -> object:
    """Return text without anything that Markdown or HTML would interpret; what is marked as safe stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    value = without_controls(value)
    for character in "\\`*_[]#":
        value = value.replace(character, f"\\{character}")
    return " ".join(value.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").split())

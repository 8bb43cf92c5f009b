"""Checks and warnings that span several blocks of a recipe.

Problems are pairs that don't fit, rows that are read twice, and unused keys. Warnings are for settings that deserve a
second look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ftp.components import Adapter
from ftp.data.files import files_of
from ftp.errors import DataError, did_you_mean
from ftp.files import shown
from ftp.plugins import Plugins, missing_packages
from ftp.recipe.model import Recipe, Source, components_of
from ftp.recipe.yaml_source import Path_, dotted

USUAL_BATCH = 16
"""Rows of an optimizer step for which the usual learning rates were found (Dettmers et al. 2023, arXiv:2305.14314)."""


def cross_check(recipe: Recipe, plugins: Plugins) -> Iterator[tuple[Path_, str]]:
    """Yield the problems that span several blocks: pairs that don't fit, and keys that nothing would read."""
    sources: list[tuple[Path_, Source]] = [(("data", "train", i), s) for i, s in enumerate(recipe.data.train)]
    if isinstance(recipe.data.validation, Source):
        sources.append((("data", "validation"), recipe.data.validation))
    held_out: list[tuple[Path_, Source]] = [(("data", "evals", name), s) for name, s in recipe.data.evals.items()]

    for path, source in sources + held_out:
        if (source.path is None) == (source.hub is None):
            yield path, "needs either `path:` or `hub:`"
        for key in ("split", "revision"):
            if source.hub is None and getattr(source, key) is not None:
                yield (*path, key), "applies only to a `hub:` source; remove it"
    for path, source in sources:
        if source.format.makes not in recipe.train.takes:
            yield (
                (*path, "format"),
                f"'{source.format.used_as}' makes {source.format.makes} examples and the trainer "
                f"'{recipe.train.used_as}' takes {', '.join(recipe.train.takes)}",
            )
    for path, source in held_out:
        if source.role == "replay":
            yield (*path, "role"), "an eval set has no role; remove it"
        for index, evaluator in enumerate(recipe.evaluate):
            if not evaluator.on_its_own and source.format.makes not in evaluator.takes:
                yield (
                    ("evaluate", index),
                    f"'{evaluator.used_as}' takes {', '.join(evaluator.takes)} examples and {dotted(path)} holds "
                    f"{source.format.makes}",
                )
    yield from _read_twice(sources, held_out)

    on_evals = [evaluator for evaluator in recipe.evaluate if not evaluator.on_its_own]
    if on_evals and not recipe.data.evals:
        yield ("evaluate",), "there is nothing to evaluate on; name an eval set under data.evals"
    if recipe.data.evals and not on_evals:
        yield ("data", "evals"), "no evaluator reads these; add one under `evaluate:`"
    judged = getattr(recipe.train, "best_by", "loss").partition(".")[0]
    names = [evaluator.used_as for evaluator in on_evals]
    if judged != "loss" and judged not in names:
        what = f"no evaluator '{judged}' under `evaluate:`"
        if judged in [evaluator.used_as for evaluator in recipe.evaluate]:
            what = f"'{judged}' is evaluated on data of its own and can't score validation rows"
        yield ("train", "best_by"), what + did_you_mean(judged, {"loss", *names})
    if "answers" in recipe.model_fields_set and not any(evaluator.reads_answers for evaluator in recipe.evaluate):
        yield ("answers",), "no evaluator of this recipe reads answers; remove it"
    replay = [path for path, source in sources if source.role == "replay"]
    mixers = [index for index, curator in enumerate(recipe.data.curate) if "replay" in curator.handles]
    if replay and not mixers:
        yield (
            (*replay[0], "role"),
            "nothing says how much replay to mix in; add `- {use: mix, replay: 5%}` to curate",
        )
    # A curator whose option `replay` is left out mixes by something else and needs no such rows.
    asking = [index for index in mixers if getattr(recipe.data.curate[index], "replay", True) is not None]
    if asking and not replay:
        yield ("data", "curate", asking[0]), "mixes replay rows and no source has `role: replay`"
    splitters = [index for index, curator in enumerate(recipe.data.curate) if curator.splits]
    if splitters and recipe.data.validation is not None:
        use = recipe.data.curate[splitters[0]].used_as
        yield ("data", "validation"), f"the curator '{use}' makes the validation split; remove one of the two"
    for index in splitters[1:]:
        yield ("data", "curate", index), "there can be only one validation split; remove one of the two"
    if all(source.role == "replay" for _, source in sources[: len(recipe.data.train)]):
        yield ("data", "train"), "has replay rows only; a run needs domain rows"

    for path, component in components_of(recipe):
        offer = plugins.offer_of(component)
        if offer is None:
            what = "which no plugin in use offers; name another"
            yield path, f"the default is a {type(component).__name__}, {what}"
        else:
            yield from ((path, missing) for missing in missing_packages(offer))
        for problem in component.problems():
            option, colon, what = problem.partition(": ")
            yield ((*path, option), what) if colon and option in type(component).model_fields else (path, problem)


def _read_twice(
    sources: Sequence[tuple[Path_, Source]], held_out: Sequence[tuple[Path_, Source]]
) -> Iterator[tuple[Path_, str]]:
    """Yield files, or splits of a hub data set, that are read twice: validation and eval rows are never trained on."""
    readers: dict[str, Path_] = {}
    for path, source in [*sources, *held_out]:
        shared: dict[Path_, list[str]] = {}
        for place in _places_of(source):
            other = readers.setdefault(place, path)
            if other != path:
                shared.setdefault(other, []).append(place)
        for other, places in shared.items():
            key = "path" if source.path else "hub"
            leak = other[1] != path[1] and "train" in (other[1], path[1])
            and_more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            first = shown(Path(places[0]), Path.cwd()) if source.path else places[0]
            why = "a leak: these rows would be trained on" if leak else "read each file once"
            yield (*path, key), f"{dotted(other)} reads {first}{and_more} too; {why}"


def _places_of(source: Source) -> list[str]:
    if source.hub is not None:
        return [f"{source.hub}/{source.split or 'train'}"]
    if source.path is None:
        return []
    try:
        return [str(file.resolve()) for file in files_of(source.path)]
    except (DataError, ValueError, OSError):  # nothing there: reading the rows will say so
        return [source.path]


def warnings(recipe: Recipe) -> Iterator[tuple[Path_, str]]:
    """Yield settings that deserve a second look: a learning rate outside the usual range of the adapter."""
    pace, usual = recipe.train.peak_rate(), recipe.adapter.learning_rates
    if pace is not None and usual is not None and not usual[0] <= pace[0] <= usual[1]:
        yield ("train", "learning_rate"), rate_in_words(recipe.adapter, *pace)


def rate_in_words(adapter: Adapter, rate: float, batch: int) -> str:
    """Describe how a learning rate compares with the usual ones of an adapter, given its scale and the batch size.

    The best rate grows roughly with the square root of the batch size (for Adam: Malladi et al. 2022,
    arXiv:2205.10287).

    Args:
        batch: rows of an optimizer step.
    """
    if adapter.learning_rates is None:
        return f"the usual learning rates of '{adapter.used_as}' are not known"
    low, high = adapter.learning_rates
    where = "below" if rate < low else "above" if rate > high else "within"
    words = [f"{rate_shown(rate)} is {where} the usual {rate_shown(low)} to {rate_shown(high)} of '{adapter.used_as}'"]
    scale, why = adapter.update_scale()
    if not math.isclose(scale, 1):
        words.append(f"{why}: the weights move as if the rate were {rate_shown(rate * scale)}")
    grows = math.sqrt(batch / USUAL_BATCH)
    if not 0.6 < grows < 1.6:
        words.append(
            f"a step has {batch} row{'s' if batch > 1 else ''}: good rates grow roughly with the square root of it, "
            f"so the usual ones for {USUAL_BATCH} rows become {rate_shown(low * grows)} to {rate_shown(high * grows)}"
        )
    return "; ".join(words)


def rate_shown(rate: float) -> str:
    """Format a learning rate with two significant digits, as people write it: 2e-4."""
    mantissa, _, exponent = f"{rate:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"

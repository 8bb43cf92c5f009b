"""`ftp export`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.consent import TRUST, ask_for_run
from ftp.cli.echo import echo
from ftp.cli.options import TRACEBACK, load_plugins, plugin_options


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("formats", nargs=-1, required=True, metavar="FORMAT…")
@click.option("--set", "settings", metavar="OPTION=VALUE", multiple=True, help="Set an option: --set type=Q8_0")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Write into this directory, not below the run.")
@plugin_options
@TRUST
@TRACEBACK
def command(
    run: Path,
    formats: tuple[str, ...],
    settings: tuple[str, ...],
    output: Path | None,
    files: tuple[Path, ...],
    without: tuple[str, ...],
    trust: bool,
) -> None:
    """Write the model of a run in other FORMATs, each into exports/FORMAT/ below the run.

    Each export is compared with the model that was evaluated: token ids, next-token predictions, greedy answers. One
    that is out of bounds is named unproven and kept, and the exit code is 4. The result is in export.json, in the
    model card and in the report.
    """
    from ftp import recipe, results
    from ftp.cli.run import quiet_libraries
    from ftp.cli.show import show
    from ftp.provenance import trust as consents
    from ftp.runs.directory import RunDirectory
    from ftp.stages.export import Exporting, refuse_unproven
    from ftp.stages.reports import default_reporters, write_reports
    from ftp_plugins.commands.export.formats import exporters_for

    directory = RunDirectory(run)
    plugins = load_plugins(files, without)
    results.finished(directory)
    trained_by = recipe.read(directory.place("resolved.yaml"), plugins)
    exporters = exporters_for(formats, settings, output, plugins)
    ask_for_run(directory, consents.of_recipe([trained_by.model, trained_by.adapter, *trained_by.report]), trust)
    written: list[Path] = []
    quiet_libraries()
    with show() as progress, directory.lock():
        exporting = Exporting(trained_by, directory, progress.stage, progress.note)
        targets = [output or run / "exports" / one.place for one in exporters]
        exporting.begin(exporters, targets[0])
        for exporter, target in zip(exporters, targets, strict=True):
            written.append(exporting.export(exporter, target))
        if output is None:
            progress.stage("Writing reports")
            write_reports(directory, plugins, trained_by.report or default_reporters(plugins))
    for path in written:
        echo(path)
    refuse_unproven(written)

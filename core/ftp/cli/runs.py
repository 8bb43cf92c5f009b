import click


@click.command("runs")
def command() -> None:
    """x"""

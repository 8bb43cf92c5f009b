"""Rich's console without what a terminal would act on in the text that it is given."""

from __future__ import annotations

from collections.abc import Iterable

import rich.console
from rich.segment import Segment

from ftp.files import without_controls


class Console(rich.console.Console):
    """A console that writes its own colours and bars, and of names and replies of others only the text."""

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the segments of a renderable, their text without control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(without_controls(segment.text), segment.style)

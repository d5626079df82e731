"""Options that the long-running commands have in common."""

from typing import Annotated

import typer

MetricsPort = Annotated[
    int | None, typer.Option(help="Serve metrics and health on this port; 0 picks a free one.")
]
MetricsHost = Annotated[str | None, typer.Option(help="Address to serve metrics and health on.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]

"""`pricer doctor`: what this machine has, and what stands in the way."""

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pricer.errors import one_line


def doctor() -> None:
    """Show what this machine has, what the current params need of it, and what is in the way."""
    from pricer.commands.checkup import examine

    console, group = Console(), ""
    problems: dict[str, bool] = {}  # whether they are fatal
    for finding in examine(Path()):
        if finding.group != group:
            group = finding.group
            console.print(f"[bold]{escape(group)}[/bold]", highlight=False)
        mark = "[red]![/red]" if finding.problem else " "
        value = escape(one_line(finding.value))
        console.print(f"{mark} {finding.what:<20} {value}", soft_wrap=True)
        if finding.problem:
            problems.setdefault(finding.problem, finding.fatal)  # one cause may show twice
    count = "1 problem" if len(problems) == 1 else f"{len(problems) or 'no'} problems"
    console.print(f"[bold]{count}[/bold]", highlight=False)
    for problem, fatal in problems.items():
        kind = "[red]fatal[/red]" if fatal else "note "
        console.print(f"{kind} {escape(one_line(problem))}", soft_wrap=True, highlight=False)
    if any(problems.values()):
        sys.exit(1)

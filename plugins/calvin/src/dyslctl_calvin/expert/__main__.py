"""``python -m dyslctl_calvin.expert``: how far the scripted expert gets on the official chains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import typer

from dyslctl.suite import EpisodeSpec
from dyslctl_calvin.suite import CalvinD

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def measure(first: int = 500, count: int = 500) -> None:
    """Let the expert act in ``count`` official chains from number ``first`` on. It was tuned on 0 to 499 alone."""
    suite = CalvinD()
    scores, asked, missed = play(suite, suite.episodes("test", first + count)[first:])
    rates = [f"{100 * np.mean([score >= length for score in scores]):.1f}" for length in range(1, suite.max_score + 1)]
    typer.echo(f"{len(scores)} chains: average length {np.mean(scores):.3f}, {' '.join(rates)} % solve 1 to 5 in a row")
    for task in sorted(asked):
        typer.echo(f"{task:26s} {asked[task] - missed[task]} of {asked[task]}")


def play(suite: CalvinD, specs: Sequence[EpisodeSpec]) -> tuple[list[int], Counter[str], Counter[str]]:
    """The score of each chain, how often each task was asked for, and how often it failed."""
    scores, asked, missed = list[int](), Counter[str](), Counter[str]()
    for spec in specs:
        score, names = suite.demonstrate(spec).score, suite.beginning(spec)[0].tasks
        scores.append(score)
        asked.update(names[: score + 1])
        missed.update(names[score : score + 1])
    return scores, asked, missed


if __name__ == "__main__":
    app()

"""Charts of a report, drawn by matplotlib: each function takes plain data and returns a figure.

Only `report` imports this, and only if matplotlib is installed. It avoids pyplot, so that no window system is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from mvpnet.dataplane.address import host_name

STATE_COLOURS = {
    "starting": "#c9d3df",
    "booting": "#f2b134",
    "configuring": "#f7d98b",
    "up": "#9ad0a5",
    "running": "#2f8f5b",
    "stopping": "#d9755f",
}
_COLOURS = ("#2b6cb0", "#d9822b", "#2f8f5b", "#a23b72", "#6b5b95", "#8c564b", "#11808a", "#7f7f7f")
_LINES_AT_MOST = len(_COLOURS)
_NAMED_AT_MOST = 24  # ranks on an axis that are labelled with names
_WORDS_AT_MOST = 8  # ranks in a matrix whose cells hold text
_INK, _GRID = "#2d3748", "#e2e8f0"

Samples = Mapping[int, Sequence[Mapping[str, Any]]]


def boot_timeline(states: Mapping[int, Sequence[tuple[str, float]]], begun: float) -> Figure:
    """Draw one bar per rank: the states of its guest over time, in seconds after `begun`."""
    figure, axes = _one(height_in=min(12.0, 1.4 + 0.34 * max(2, len(states))))
    for rank, passed in states.items():
        for (state, at), (_, until) in itertools.pairwise(passed):
            axes.barh(rank, until - at, left=at - begun, color=STATE_COLOURS.get(state, "#888888"), height=0.72)
    seen = {state for passed in states.values() for state, _ in passed}
    axes.set_xlabel("seconds after the job began")
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    _rank_axis(axes, list(states), "y")
    axes.legend(
        handles=[Patch(color=colour, label=state) for state, colour in STATE_COLOURS.items() if state in seen],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(STATE_COLOURS),
        frameon=False,
        fontsize=9,
    )
    axes.grid(axis="y", visible=False)
    return figure


def traffic_matrix(sent: Mapping[int, Mapping[int, int]], size: int) -> Figure:
    """Draw the bytes sent from rank to rank on a logarithmic scale; white stands for none."""
    in_words = size <= _WORDS_AT_MOST
    figure, axes = _one(width_in=2.2 + 0.95 * size, height_in=1.3 + 0.55 * size) if in_words else _one(6.4, 5.2)
    grid = [[sent.get(source, {}).get(to, 0) for to in range(size)] for source in range(size)]
    counts = [count for row in grid for count in row if count] or [1]
    most, least = max(counts), min(min(counts), max(counts) / 10)
    shown = [[count or float("nan") for count in row] for row in grid]
    picture = axes.imshow(shown, cmap="YlGnBu", norm=LogNorm(max(least, 1e-3), most), aspect="auto")
    if in_words:
        _in_words(axes, grid, dark_from=(most * least) ** 0.5)
    else:
        bar = figure.colorbar(picture, ax=axes, format=EngFormatter("B"), shrink=0.85)
        bar.ax.yaxis.set_minor_locator(NullLocator())
    _rank_axis(axes, range(size), "x")
    _rank_axis(axes, range(size), "y")
    axes.set_xlabel("to")
    axes.set_ylabel("from")
    axes.grid(visible=False)
    return figure


def _in_words(axes: Axes, grid: Sequence[Sequence[int]], dark_from: float) -> None:
    """Write each cell's bytes into it, and draw lines between the cells."""
    for source, row in enumerate(grid):
        for to, count in enumerate(row):
            words = EngFormatter("B", places=1)(count) if count else "–"
            colour = "white" if count > dark_from else _INK if count else "#a0aec0"
            axes.text(to, source, words, ha="center", va="center", fontsize=9, color=colour)
    for edge in range(1, len(grid)):
        axes.axhline(edge - 0.5, color="white", linewidth=2)
        axes.axvline(edge - 0.5, color="white", linewidth=2)


def rates(samples: Samples, begun: float) -> Figure:
    """Draw the frames and bits per second that each guest sent; for many guests, their sum."""
    figure = Figure(figsize=(9.2, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, name, unit, scale in (
        (above, "frames_from_guest", "frames/s", 1),
        (below, "bytes_from_guest", "bit/s", 8),
    ):
        _dress(axes)
        lines = {host_name(rank): _rate(lines, name, scale, begun) for rank, lines in samples.items()}
        if len(lines) > _LINES_AT_MOST:
            lines = {f"all {len(lines)} guests": _summed(list(lines.values()))}
        for (label, (times, values)), colour in zip(lines.items(), _COLOURS, strict=False):
            axes.stairs(values, times, label=label, color=colour, linewidth=1.6, baseline=None)
        axes.set_ylabel(f"sent, {unit}")
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.set_ylim(bottom=0)
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=_LINES_AT_MOST, fontsize=9, frameon=False)
    below.set_xlim(left=0)
    below.set_xlabel("seconds after the job began")
    return figure


def _rate(lines: Sequence[Mapping[str, Any]], name: str, scale: int, begun: float) -> tuple[list[float], list[float]]:
    """Return the edges of the intervals between samples, and the rate per second in each."""
    times = [line["t"] - begun for line in lines]
    values = [
        scale * (new[name] - old[name]) / max(1e-3, new["t"] - old["t"]) for old, new in itertools.pairwise(lines)
    ]
    return times, values


def _summed(lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """Return the sum of step functions."""
    edges = sorted({time for times, _ in lines for time in times})
    jumps = dict.fromkeys(edges, 0.0)
    for times, values in lines:
        for start, end, value in zip(times, times[1:], values, strict=False):
            jumps[start] += value
            jumps[end] -= value
    total, values = 0.0, []
    for edge in edges[:-1]:
        total += jumps[edge]
        values.append(max(0.0, total))
    return edges, values


def drops(by_reason: Mapping[str, Mapping[int, int]]) -> Figure:
    """Draw the dropped frames by reason, with the ranks side by side in a bar."""
    figure, axes = _one(height_in=1.3 + 0.42 * len(by_reason))
    ranks = sorted({rank for counts in by_reason.values() for rank in counts})
    names = list(by_reason)
    left = [0] * len(names)
    for index, rank in enumerate(ranks):
        counts = [by_reason[name].get(rank, 0) for name in names]
        axes.barh(names, counts, left=left, color=_COLOURS[index % len(_COLOURS)], label=host_name(rank), height=0.6)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("frames dropped")
    axes.xaxis.set_major_formatter(EngFormatter())
    if len(ranks) <= _LINES_AT_MOST:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


@dataclass(frozen=True)
class Point:
    """One measurement of a metric."""

    at: float | str  # value of the swept key: a number on a scale, or a word
    label: str  # the value as typed
    setting: str  # description of the other swept keys
    value: float


def metric(name: str, key: str, points: Sequence[Point]) -> Figure:
    """Draw a metric against a swept key.

    Each setting of the other keys has a line through the means, a dot for each measurement, and a bar from the least
    to the greatest value.
    """
    figure, axes = _one(width_in=7.2, height_in=3.9)
    labels = {point.at: point.label for point in points}
    numbers = all(isinstance(at, float) for at in labels)
    order = sorted(labels, key=lambda at: at if isinstance(at, float) else 0.0) if numbers else list(labels)
    places = {at: at if isinstance(at, float) and numbers else float(index) for index, at in enumerate(order)}
    settings = list(dict.fromkeys(point.setting for point in points))
    apart = 0.012 * ((max(places.values()) - min(places.values())) or 1.0)  # offset between bars
    for index, setting in enumerate(settings):
        shift = apart * (index - (len(settings) - 1) / 2)
        groups = {at: [p.value for p in points if (p.at, p.setting) == (at, setting)] for at in order}
        measured = [(places[at] + shift, values) for at, values in groups.items() if values]
        _spread(axes, measured, setting, _COLOURS[index % len(_COLOURS)])
    axes.set_xticks(list(places.values()), [labels[at] for at in order])
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(key)
    axes.set_ylabel(name)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if axes.get_ylim()[1] >= 1e4:
        axes.yaxis.set_major_formatter(EngFormatter())
    if settings != [""]:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _spread(axes: Axes, measured: Sequence[tuple[float, Sequence[float]]], label: str, colour: str) -> None:
    places = [place for place, _ in measured]
    means = [sum(values) / len(values) for _, values in measured]
    below = [mean - min(values) for mean, (_, values) in zip(means, measured, strict=True)]
    above = [max(values) - mean for mean, (_, values) in zip(means, measured, strict=True)]
    axes.errorbar(places, means, yerr=[below, above], color=colour, capsize=4, marker="o", label=label, linewidth=1.6)
    for place, values in measured:
        axes.plot([place] * len(values), values, ".", color=colour, alpha=0.5, markersize=5)


def _one(width_in: float = 9.2, height_in: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#a0aec0")
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _rank_axis(axes: Axes, ranks: Sequence[int], which: str) -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    if len(ranks) <= _NAMED_AT_MOST:
        axis.set_ticks(list(ranks), [host_name(rank) for rank in ranks])
    else:
        axis.set_major_locator(MaxNLocator(integer=True))

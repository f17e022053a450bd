"""How far the latency predictor is from published latencies, and what was tried beside it.

    python benchmarks/predictor.py

Writes benchmarks/results/predictor.md and predictor.csv. Beside the tables of
`pare targets validate` stands one that compares forms of the model on equal rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pipeline.cli.validating import models, rows_as_csv, sets, summaries
from pipeline.core.rundir import write_text
from pipeline.profilers.published import DISTURBED, Published, graph_of, published
from pipeline.profilers.validation import Validation, validate

RESULTS = Path(__file__).parent / "results"
FEWEST = 4
RUNTIMES = ("XNNPACK", "onnxruntime", "TFLite", "ncnn")
POWERS = (0.9, 0.8, 0.7)
BALANCES = np.geomspace(0.5, 200, 40)

Matrix = NDArray[np.float64]
#: What a network costs, as one row of figures for each variant a form may choose from.
Form = Callable[[str], Matrix]
#: Absolute relative errors by network and set.
Errors = dict[tuple[str, ...], float]

ABOUT = f"""\
Two rates a set, t = MACs / R + activation bytes / B, fitted to relative errors. Each network
is predicted from the other networks of its set (device, engine, number format, threads); no
row of it, on any device, takes part. Where two rates can't be told from those that are left,
as in sets of two networks, one rate is fitted and the balance R : B is that of all other
sets of the runtime. Counted are the networks that this project or torchvision builds with
the published MACs.

A row is disturbed, and left out, where its mean is beyond {DISTURBED:g} times its own
fastest run; the error with these rows is given beside. *Inside*: rows whose time lies in the
interval of their prediction, made from the errors of the other networks of the set; 90 % are
promised. Made by `benchmarks/predictor.py`; sources are in `targets/device_latencies.csv`,
every row in [predictor.csv](predictor.csv)."""
OTHERS = f"""\
Mean error, leave one network out, on the sets of at least {FEWEST} networks. "Chosen" takes
for each network the form that does best where none of its rows are seen. Files of this
project run in XNNPACK and onnxruntime, of which four networks each are known: a roofline is
better on these two and worse on the two with more networks, every other form loses on one of
the two, and choosing by such errors does not pay on XNNPACK. So the two rates stay. In ncnn,
whose Winograd kernels like large operations, MACs to a power below one are better beyond
doubt; none of our files run in it."""


def main() -> None:
    rows = published()
    found = validate(rows)
    write_text(RESULTS / "predictor.csv", rows_as_csv(found))
    write_text(RESULTS / "predictor.md", markdown(found, forms(rows)))
    print("\n".join(table(summaries(found))))


def markdown(found: Validation, tried: list[list[str]]) -> str:
    """Return all tables."""
    parts = [
        "# The latency predictor against published latencies",
        ABOUT,
        "## By runtime",
        "\n".join(table(summaries(found))),
        "## Other forms of the model",
        OTHERS,
        "\n".join(table(tried)),
        "## By network",
        "\n".join(table(models(found))),
        "## By set",
        "A star: balance borrowed from other sets.",
        "\n".join(table(sets(found))),
    ]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    titles, *body = rows
    return [
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(row)} |" for row in body),
    ]


def forms(rows: Sequence[Published]) -> list[list[str]]:
    """Return the mean errors of each form on each runtime, titles first."""
    tried: dict[str, Form] = {
        "MACs": columns_of("macs"),
        "MACs, bytes (used)": columns_of("macs", "moved"),
        "MACs, bytes, operations": columns_of("macs", "moved", "operations"),
        "MACs, bytes, weights": columns_of("macs", "moved", "weights"),
        "MACs, bytes, constant": columns_of("macs", "moved", "constant"),
        "MACs, depthwise MACs, bytes": columns_of("macs", "depthwise", "moved"),
        "roofline of each operation": roofline,
        **{f"MACs of each operation ^ {p}, bytes": power(p) for p in POWERS},
    }
    lines = [
        [name, *(said(leave_out(rows, runtime, form)) for runtime in RUNTIMES)]
        for name, form in tried.items()
    ]
    best = [said(chosen(rows, runtime, list(tried.values()))) for runtime in RUNTIMES]
    return [["form", *RUNTIMES], *lines, ["chosen", *best]]


def said(found: Errors) -> str:
    return f"{100 * fmean(found.values()):.1f} %"


def chosen(rows: Sequence[Published], runtime: str, tried: Sequence[Form]) -> Errors:
    """Return the errors where the form for each network was chosen without its rows."""
    result: Errors = {}
    for network in {row.network for row in rows if row.runtime == runtime}:
        others = [row for row in rows if row.network != network]
        fewest = FEWEST - 1  # so that the same sets count as when nothing is left out
        errors = [leave_out(others, runtime, form, fewest) for form in tried]
        best = min(range(len(tried)), key=lambda index: fmean(errors[index].values()))
        own = leave_out(rows, runtime, tried[best])
        result.update({key: found for key, found in own.items() if key[0] == network})
    return result


def leave_out(
    rows: Sequence[Published], runtime: str, form: Form, fewest: int = FEWEST
) -> Errors:
    """Return the absolute error of each row."""
    groups: dict[tuple[str, ...], list[Published]] = {}
    for row in rows:
        if row.runtime == runtime and not row.disturbed:
            key = (row.tool, row.device, row.unit, row.dtype, row.threads)
            groups.setdefault(key, []).append(row)
    return {
        (row.network, *key): missed(row, [other for other in group if other != row], form)
        for key, group in groups.items()
        if len(group) >= fewest
        for row in group
    }


def missed(row: Published, others: Sequence[Published], form: Form) -> float:
    """Return the relative error of predicting a row from others, in size."""
    ms = np.array([other.ms for other in others])
    costs = np.stack([form(other.network) for other in others], axis=1)  # [variants, n, k]
    fits = [fitted(variant / ms[:, None]) for variant in costs]
    best = min(range(len(fits)), key=lambda index: fits[index][0])
    return abs(float(form(row.network)[best] @ fits[best][1]) / row.ms - 1)


def fitted(relative: Matrix) -> tuple[float, Matrix]:
    """Return the misfit and the rates, none negative, that bring all rows nearest to 1."""
    wide = relative.shape[1]
    best = (float(len(relative)), np.zeros(wide))
    for size in range(1, wide + 1):
        for part in itertools.combinations(range(wide), size):
            found, *_ = np.linalg.lstsq(relative[:, part], np.ones(len(relative)), rcond=None)
            left = float(((relative[:, part] @ found - 1) ** 2).sum())
            if (found >= 0).all() and left < best[0]:
                rates = np.zeros(wide)
                rates[list(part)] = found
                best = left, rates
    return best


def columns_of(*names: str) -> Form:
    def form(network: str) -> Matrix:
        graph = graph_of(network)
        known = {
            "macs": graph.macs * 1e-6,
            "depthwise": sum(op.macs for op in graph.ops if op.depthwise) * 1e-6,
            "moved": graph.activation_bytes * 1e-6,
            "weights": graph.weight_bytes * 1e-6,
            "operations": len(graph.ops),
            "constant": 1.0,
        }
        return np.array([[known[name] for name in names]])

    return form


def roofline(network: str) -> Matrix:
    ops = graph_of(network).ops
    macs, moved = (
        np.array([getattr(op, name) for op in ops]) for name in ("macs", "activation_bytes")
    )
    return np.maximum(macs / BALANCES[:, None], moved).sum(axis=1, keepdims=True) * 1e-6


def power(exponent: float) -> Form:
    def form(network: str) -> Matrix:
        graph = graph_of(network)
        spent = sum((op.macs * 1e-6) ** exponent for op in graph.ops)
        return np.array([[spent, graph.activation_bytes * 1e-6]])

    return form


if __name__ == "__main__":
    main()

"""The tables of each JSON document a command prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from dyslctl.report import ablation, pareto, studies, suites
from dyslctl.report.cells import MISSING, crashes, interval, number, percent
from dyslctl.report.tables import Column, Table

Document = Mapping[str, Any]


def tables(document: Document) -> list[Table]:
    """The tables for ``document``, by its schema."""
    return list(_BUILDERS[str(document["schema"])](document))


def _profile(document: Document) -> list[Table]:
    static = set(document["static_layers"])
    rows = [
        (str(layer), f"{similarity:.4f}", "static" if layer in static else "dynamic")
        for layer, similarity in enumerate(document["similarity"])
    ]
    return [
        Table(
            f"Layers of {document['backbone']}",
            [Column("layer"), Column("similarity of input and output"), Column("kind", numeric=False)],
            rows,
            [
                f"{document['samples']} samples; {len(static)} of {document['num_layers']} layers are static",
                f"skip profile: {document['profile_path']}",
            ],
        )
    ]


def _distill(document: Document) -> list[Table]:
    columns = [
        Column("method", numeric=False),
        Column("stage", numeric=False),
        Column("steps"),
        Column("first loss"),
        Column("last loss"),
        Column("trainable parameters"),
        Column("seconds"),
    ]
    stages = document.get("stages") or [document]
    rows = [
        (
            stage["method"],
            str(stage["stage"]),
            str(stage["steps"]),
            number(stage["loss_first"], 4),
            number(stage["loss_last"], 4),
            f"{stage['trainable_parameters']:,}",
            number(stage["seconds"]),
        )
        for stage in stages
    ]
    trained = Table("Distillation", columns, rows, [f"bundle: {document['bundle_path']}"])
    return [trained, *(_calibrate(document["calibrated"]) if "calibrated" in document else [])]


def _calibrate(document: Document) -> list[Table]:
    if document.get("offline"):
        return [_calibrate_offline(document)]
    columns = [Column("dial"), Column("layers/inference"), Column("solved"), Column("", numeric=False)]
    rows = [
        (
            f"{tried['dial']:g}",
            number(tried["layers"], 2),
            f"{tried['successes']} of {tried['episodes']}",
            "chosen" if tried["dial"] == document["dial"] else "",
        )
        for tried in document["tried"]
    ]
    took = [f"{document['llm_ms']:.2f} ms of layers an inference"] if document["llm_ms"] is not None else []
    notes = [
        f"target: {document['target']}; {'met' if document['met'] else 'the nearest there is'}",
        *_layers_error(document),
        f"success {percent(document['success_rate'])}, 95 % Wilson {interval(document['success_ci95'])}, "
        f"n = {document['episodes']} {document['split']} episodes of {document['suite']}",
        *_drop(document),
        *took,
        f"dial: {document['meaning']}; written to {document['bundle_path']}",
    ]
    return [Table(f"Dials of {document['method']}, tried in closed loop", columns, rows, notes)]


def _calibrate_offline(document: Document) -> Table:
    columns = [Column("dial"), Column("layers/inference"), Column("damage")]
    row = f"{document['dial']:.4g}", number(document["layers_per_inference"], 2), percent(document["damage"])
    notes = [
        f"target: {document['target']}; {'met' if document['met'] else 'the nearest there is'}",
        f"offline: {document['frames']} frames, held-out episodes of {document['suite']}: {document['episodes']}; "
        "no robot acted, success is not known",
        "damage: mean distance to the full model's actions, as a share of the motion",
        f"dial: {document['meaning']}; written to {document['bundle_path']}",
    ]
    return Table(f"Dial of {document['method']}, from recorded episodes", columns, [row], notes)


def _layers_error(document: Document) -> list[str]:
    """How far the layers of other episodes may be from these; runs of earlier versions did not say."""
    error = document.get("layers_per_inference_se")
    if error is None:
        return []
    return [f"{document['layers_per_inference']:.2f} layers an inference, standard error over episodes {error:.2f}"]


def _drop(document: Document) -> list[str]:
    """What the method lost, if the target speaks of it."""
    lost = document["success_drop_pp"]
    if lost is None:
        return []
    low, high = document["success_drop_pp_ci95"]
    return [
        f"lost against full: {lost:.1f} points, 95 % interval {low:.1f} to {high:.1f}, "
        f"n = {document['episodes']} paired episodes; more --episodes narrow it"
    ]


def _eval(document: Document) -> list[Table]:
    columns = [
        Column("method", numeric=False),
        Column("success"),
        Column("95 % interval"),
        Column("errors"),
        Column("layers run"),
        Column("tokens"),
        Column("LLM ms mean"),
        Column("LLM ms p50"),
        Column("verifications"),
    ]
    rows = [
        (
            name,
            percent(method["success_rate"]),
            interval(method["success_ci95"]),
            str(method["errors"]),
            number(method["mean_layers_run"], 2),
            number(method["mean_tokens"], 0),
            number(method["llm_ms_mean"], 2),
            number(method["llm_ms_p50"], 2),
            number(method["verifications_per_episode"], 2),
        )
        for name, method in document["methods"].items()
    ]
    notes = [f"{document['episodes']} paired episodes; Wilson intervals in percent; layers run count re-predictions"]
    if document.get("batch", 1) > 1:
        notes.append(f"not timed: {document['batch']} episodes ran side by side (--batch 1 times them)")
    notes += crashes(document["methods"])
    if found := document.get("videos"):
        notes.append(f"videos: {len(found)}, in {PurePosixPath(found[0]).parents[1]} below the run")
    return [Table(f"Success on {document['suite']}", columns, rows, notes), *_chains(document), *_paired(document)]


def _chains(document: Document) -> list[Table]:
    """How far chains get, if the suite has any: the average length, and the share that solves 1, 2, ... in a row."""
    rates = {name: method["chain_rates"] for name, method in document["methods"].items() if method.get("chain_rates")}
    length = max(map(len, rates.values()), default=1)
    if length == 1:
        return []
    found = document["methods"]
    rows = [
        (name, number(found[name]["avg_len"], 3), _range(found[name]["avg_len_ci95"]), *map(percent, solved))
        for name, solved in rates.items()
    ]
    columns = [Column("method", numeric=False), Column("average length"), Column("95 % interval")]
    columns += [Column(f"{count} in a row") for count in range(1, length + 1)]
    return [Table("Instructions solved in a row", columns, rows, ["bootstrap intervals over chains"])]


def _range(low_high: Sequence[float]) -> str:
    return f"{low_high[0]:.2f}–{low_high[1]:.2f}"


def _paired(document: Document) -> list[Table]:
    columns = [
        Column("method", numeric=False),
        Column("against", numeric=False),
        Column("only it solved"),
        Column("only the other"),
        Column("p (McNemar)"),
    ]
    rows = [
        (name, pair["versus"], str(pair["wins"]), str(pair["losses"]), f"{pair['p_value']:.3g}")
        for name, pair in document["paired"].items()
    ]
    return [Table("Paired, episode by episode", columns, rows)] if rows else []


def _bench(document: Document) -> list[Table]:
    columns = [
        Column("method", numeric=False),
        Column("source", numeric=False),
        Column("LLM ms p50"),
        Column("mean"),
        Column("± %"),
        Column("end to end ms p50"),
        Column("layers run"),
        Column("tokens"),
        Column("choosing them, ms"),
        Column("LLM speedup"),
        Column("skip efficiency"),
    ]
    rows = [
        (
            row["method"],
            row["source"],
            number(row["llm_ms_p50"], 2),
            number(row.get("llm_ms_mean"), 2),
            number(row.get("band_pct"), 0),
            number(row["end_to_end_ms_p50"], 2),
            number(row["layers_run"], 2),
            number(row.get("mean_tokens"), 0),
            number(row.get("parts_ms", {}).get("tokens") or None, 2),
            number(row["speedup"], 2),
            percent(row.get("skip_efficiency")),
        )
        for row in document["rows"]
    ]
    return [
        Table(_bench_title(document), columns, rows, _bench_notes(document)),
        *_tokens(document),
        *_compared(document),
        *_changes(document),
    ]


def _tokens(document: Document) -> list[Table]:
    headers = (
        "tokens",
        "LLM ms p50",
        "end to end ms p50",
        "LLM speedup",
        "time saved / tokens saved",
        "us a token here",
    )
    rows = [
        (
            str(row["tokens"]),
            number(row["llm_ms_p50"], 2),
            number(row["end_to_end_ms_p50"], 2),
            number(row["speedup"], 2),
            percent(row["saving_efficiency"]),
            MISSING if row["ms_per_token"] is None else number(row["ms_per_token"] * 1e3, 1),
        )
        for row in document.get("tokens_sweep", [])
    ]
    notes = [
        "evenly spaced visual tokens, dropped before the first layer: nothing chooses them, nothing is charged for it"
    ]
    title = f"The full pass on fewer tokens, {document['source']}"
    return [Table(title, [*map(Column, headers)], rows, notes)] if rows else []


def _compared(document: Document) -> list[Table]:
    headers = ("layers ms p50", "ours", "ratio", "action error", "largest")
    columns = [Column("against", numeric=False), *map(Column, headers), Column("", numeric=False)]
    rows = [
        (
            row["against"],
            number(row.get("layers_ms_p50"), 2),
            number(row.get("ours_ms_p50"), 2),
            number(row.get("ratio"), 2),
            _error(row.get("action_error_mean")),
            _error(row.get("action_error_max")),
            f"not timed: {row['why_not']}" if "why_not" in row else "",
        )
        for row in document.get("compared", [])
    ]
    notes = ["ratio: theirs over ours, the median of pairs; action error: of normalised actions, against eager"]
    return [Table(f"The full pass through the layers on {document['backend']}", columns, rows, notes)] if rows else []


def _error(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}"


def _changes(document: Document) -> list[Table]:
    columns = [Column("method", numeric=False), Column("ms", numeric=False), *map(Column, ("then", "now", "change"))]
    rows = [
        (row["method"], row["figure"], number(row["then"], 2), number(row["now"], 2), f"{row['change']:+.1%}")
        for row in document.get("changes", [])
    ]
    return [Table("Against the baseline", columns, rows)] if rows else []


def _bench_title(document: Document) -> str:
    size = f"{document['num_layers']} layers, {document['tokens']} tokens"
    name = document.get("workload", document["backbone"])
    return f"Latency on {document.get('device_title', document['device'])}: {name}, {size}, batch 1"


def _bench_notes(document: Document) -> list[str]:
    overhead, rows = document["controller_overhead"], document["rows"]
    notes = ["speedup is that of the mean time: full / method"]
    notes += [f"layers run by {document['backend']}"] if document.get("backend", "eager") != "eager" else []
    notes += [f"controllers that never skip cost {percent(overhead)} of the LLM time"] if overhead is not None else []
    notes += sorted({f"predicted: {row['calibration']}" for row in rows if row.get("calibration")})
    notes += sorted({f"published: {row['citation']}" for row in rows if row.get("citation")})
    return notes + [f"published {row['method']}: {row['flag']}" for row in rows if row.get("flag")]


def _doctor(document: Document) -> list[Table]:
    columns = [Column(header, numeric=False) for header in ("check", "status", "found", "what to do")]
    rows = [(check["name"], check["status"], check["detail"], check["fix"]) for check in document["checks"]]
    return [Table("Environment", columns, rows)]


def _plugins(document: Document) -> list[Table]:
    columns = [Column(header, numeric=False) for header in ("name", "distribution", "version", "status")]
    return [
        Table(title, columns, [tuple(str(row[column.header]) for column in columns) for row in document[key]])
        for title, key in (("Backbones", "backbones"), ("Task suites", "suites"))
    ]


def _inspect(document: Document) -> list[Table]:
    columns = [Column("what", numeric=False), Column("value", numeric=False)]
    shown = {key: value for key, value in document.items() if key not in ("schema", "kind", "path", "valid")}
    rows = [(key.replace("_", " "), MISSING if value is None else str(value)) for key, value in shown.items()]
    return [Table(f"{document['path']}: a valid {document['kind']}", columns, rows)]


def _demos(document: Document) -> list[Table]:
    columns = [
        Column("task", numeric=False),
        Column("demonstrations"),
        Column("not solved"),
        Column("errors"),
        Column("steps"),
    ]
    rows = [
        (task, str(went["episodes"]), str(went["failed"]), str(went.get("errors", 0)), str(went["frames"]))
        for task, went in document["tasks"].items()
    ]
    notes = [
        f"{document['episodes']} demonstrations of {document['frames']} steps, {document['dropped_frames']} no-ops "
        f"dropped, {document['megabytes']:.1f} MB",
        f"data set: {document['path']}",
    ]
    if document["skipped_tasks"]:
        notes.insert(1, f"tasks that the expert has no skill for: {', '.join(document['skipped_tasks'])}")
    return [Table(f"Demonstrations of {document['suite']} ({document['split']})", columns, rows, notes)]


_BUILDERS: dict[str, Callable[[Document], Sequence[Table]]] = {
    "dyslctl.profile/1": _profile,
    "dyslctl.distill/1": _distill,
    "dyslctl.calibrate/1": _calibrate,
    "dyslctl.eval/1": _eval,
    "dyslctl.suites/1": suites.tables,
    "dyslctl.pareto/1": pareto.tables,
    **{f"dyslctl.{name}/1": study.tables for name, study in studies.STUDIES.items()},
    "dyslctl.ablation/1": ablation.tables,
    "dyslctl.bench/1": _bench,
    "dyslctl.demos/1": _demos,
    "dyslctl.doctor/1": _doctor,
    "dyslctl.plugins/1": _plugins,
    "dyslctl.inspect/1": _inspect,
}

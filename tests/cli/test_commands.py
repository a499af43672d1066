"""Each command in this process on the tiny backbone: documents, files, and what goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import Result

from dyslctl import methods, plugins
from dyslctl.artifacts.bundle import load_bundle
from dyslctl.artifacts.bundle_settings import Exits
from dyslctl.artifacts.lock import locked
from dyslctl.artifacts.run_dir import RunDirectory
from dyslctl.artifacts.strict_yaml import read_yaml
from dyslctl.jobs import closed_loop
from dyslctl.jobs.exit_data import Rounds
from dyslctl.report.page import gather, summary

Run = Callable[..., Result]
Documents = Callable[..., dict[str, Any]]


def test_profile_starts_a_run_and_says_what_it_found(profiled: dict[str, Any]) -> None:
    assert list(profiled)[:8] == [
        "schema", "backbone", "checkpoint", "num_layers", "static_layers", "similarity", "samples", "profile_path",
    ]  # fmt: skip
    assert profiled["schema"] == "dyslctl.profile/1"
    assert profiled["backbone"] == "tiny" and profiled["num_layers"] == len(profiled["similarity"]) == 8
    static = profiled["static_layers"]
    assert {0, 7} <= set(static) and len(static) < 8  # the first and the last live layer are forced
    assert Path("runs/current").read_text() == "tiny\n"
    assert read_yaml(Path(profiled["profile_path"]))["static_layers"] == static
    assert read_yaml(Path("runs/tiny/config/profile.yaml"))["profile"]["samples"] == 16
    for path in profiled["figures"].values():
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_profile_without_a_backbone_continues_the_current_run(profiled: dict[str, Any], document: Documents) -> None:
    again = document("profile", "--ratio", "0.75")
    assert again["backbone"] == "tiny"
    assert set(profiled["static_layers"]) < set(again["static_layers"])


def test_profile_without_a_backbone_stays_in_a_run_of_another_name(
    profiled: dict[str, Any], document: Documents
) -> None:
    document("profile", "tiny", "--run", "mine")
    assert document("profile")["run"] == "runs/mine"
    assert Path("runs/current").read_text() == "mine\n"


def test_what_was_trained_for_other_weights_is_not_taken_over(
    distilled: dict[str, Any], run: Run, document: Documents
) -> None:
    profile = Path("runs/tiny/skip_profile.yaml")
    of = f"fingerprint: {read_yaml(profile)['backbone']['fingerprint']}"
    other = profile.read_text().replace(of, "fingerprint: 0123456789abcdef")
    profile.write_text(other)
    refused = run("profile")
    assert refused.exit_code == 2 and "what was trained for other weights" in refused.stderr
    assert "0123456789abcdef" in refused.stderr and profile.read_text() == other
    assert document("profile", "tiny", "--run", "mine")["run"] == "runs/mine"
    profile.write_text("damaged")
    assert document("profile", "--run", "tiny")["profile_path"] == str(profile)


def test_no_more_actions_are_executed_than_predicted(
    run: Run, document: Documents, tiny_suite: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite's horizon is that of the models it was made for; what a user names is refused."""
    monkeypatch.setattr(tiny_suite, "execute_horizon", 8)
    document("profile", "tiny")
    assert read_yaml(Path("runs/tiny/config/profile.yaml"))["execute_horizon"] == 4
    document("eval", "--method", "full")
    assert json.loads(Path("runs/tiny/eval/tiny_reach/manifest.json").read_text())["execute_horizon"] == 4
    for command in (("profile",), ("distill",), ("eval", "--method", "full")):
        refused = run(*command, "--set", "execute_horizon=5")
        assert refused.exit_code == 2 and "execute_horizon is 5, but the backbone predicts 4" in refused.stderr, command


def test_a_bad_setting_leaves_the_old_profile(profiled: dict[str, Any], run: Run) -> None:
    before = Path("runs/tiny/skip_profile.yaml").read_bytes()
    assert run("profile", "--ratio", "1.5").exit_code == 2
    assert Path("runs/tiny/skip_profile.yaml").read_bytes() == before


def test_distill_reports_both_stages(distilled: dict[str, Any]) -> None:
    assert distilled["schema"] == "dyslctl.distill/1"
    assert [stage["stage"] for stage in distilled["stages"]] == [1, 2]
    for key in ("stage", "steps", "loss_first", "loss_last", "trainable_parameters", "bundle_path", "seconds"):
        assert distilled[key] == distilled["stages"][-1][key]
    assert distilled["steps"] == 3
    assert (Path(distilled["bundle_path"]) / "bundle.safetensors").exists()
    assert distilled["bundle_path"] == "runs/tiny/bundles/dysl" and distilled["method"] == "dysl"
    settings = read_yaml(Path("runs/tiny/bundles/dysl/bundle.yaml"))
    assert settings["exits"]["tolerance"] == distilled["calibrated"]["dial"]
    assert settings["calibration"]["rule"] == "closed loop: at most 1 points of success lost"


@pytest.mark.parametrize(
    "command", [("distill",), ("distill", "--method", "static"), ("calibrate", "--target-layers", "6"), ("profile",)]
)
def test_two_trainings_of_one_run_at_once_are_an_error(
    distilled: dict[str, Any], run: Run, command: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    with locked(RunDirectory(Path("runs/tiny")).training_lock, "", ""):
        result = run(*command)
    assert result.exit_code == 3
    assert f"runs/tiny is being trained by process {os.getpid()} on " in result.stderr
    assert "train in another run (--run)" in result.stderr
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


def test_the_papers_method_has_a_bundle_of_its_own(paper: dict[str, Any]) -> None:
    assert paper["bundle_path"] == "runs/tiny/bundles/dysl-paper" and paper["method"] == "dysl-paper"
    assert read_yaml(Path("runs/tiny/bundles/dysl-paper/bundle.yaml"))["guidance"]["eta_1"] < 0
    assert sorted(path.name for path in Path("runs/tiny/bundles").iterdir()) == [
        "dysl", "dysl-paper", "dysl-paper-stage1", "dysl-stage1",
    ]  # fmt: skip


def test_exits_for_a_fixed_pattern_are_matched_to_the_planned_ones(
    distilled: dict[str, Any], document: Documents, run: Run
) -> None:
    """Their bundle stands beside dysl's; ``static`` runs the exit nearest to dysl's mean, ``oracle`` needs no more."""
    result = run("eval", "--episodes", "2", "--method", "static", "--quiet")
    assert result.exit_code != 0 and "dyslctl distill --method static" in result.stderr
    made = document("distill", "--method", "static")
    assert (made["bundle_path"], "calibrated" in made) == ("runs/tiny/bundles/static", False)
    exits = load_bundle(Path("runs/tiny/bundles/static")).header.modules.exits
    found = document("eval", "--episodes", "2", "--method", "static,oracle,dysl")
    layers = {name: method["mean_layers_run"] for name, method in found["methods"].items()}
    assert layers["static"] == min([*exits, 8], key=lambda layer: abs(layer - layers["dysl"]))
    assert min(exits) <= layers["oracle"] <= 8


def test_exits_without_a_memory_and_from_other_suites(profiled: dict[str, Any], document: Documents) -> None:
    settings = ("distill.remembers=false", "distill.rounds=1", "distill.suites=[a,b]")
    made = document("distill", "--target-layers", "8", *(part for each in settings for part in ("--set", each)))
    header = load_bundle(Path(made["bundle_path"])).header
    assert not header.modules.remembers
    folder = Path("runs/tiny/distill/dysl-stage2")
    assert (folder / "round1-checkpoint.safetensors").exists()
    assert not (folder / "round2-checkpoint.safetensors").exists()


def test_exits_that_have_seen_subsets_of_the_tokens(profiled: dict[str, Any], document: Documents, run: Run) -> None:
    made = document("distill", "--target-layers", "8", "--set", "distill.token_subsets=true")
    training = load_bundle(Path(made["bundle_path"])).header.training
    assert training.token_subsets and training.samples is not None and training.samples % 2 == 0
    found = document("eval", "--method", "dysl+specprune")
    assert found["methods"]["dysl+specprune"]["episodes"] == 1
    refused = run("distill", "--method", "mole", "--set", "distill.token_subsets=true", "--quiet")
    assert refused.exit_code == 2 and "no setting 'token_subsets' for this method" in refused.stderr


def test_an_interrupted_calibration_leaves_the_calibrated_bundle(
    distilled: dict[str, Any], document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--resume`` then trains nothing again and ends with a calibrated bundle."""
    bundle = Path(distilled["bundle_path"])
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def interrupt(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(closed_loop, "evaluate", interrupt)
        assert run("distill", "--seed", "1", "--quiet").exit_code == 130
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    again = document("distill", "--seed", "1", "--resume")
    made = load_bundle(bundle)
    assert again["calibrated"]["bundle_path"] == again["bundle_path"] == str(bundle)
    assert made.header.training.seed == 1 and made.settings == Exits(tolerance=again["calibrated"]["dial"])


def test_a_target_out_of_reach_leaves_the_calibrated_bundle(
    distilled: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (Path(distilled["bundle_path"]) / "bundle.yaml").read_bytes()
    monkeypatch.setattr(closed_loop.ClosedLoop, "ms_per_layer", lambda *_: 2.0)
    result = run("distill", "--target-ms", "0.001", "--quiet")
    assert result.exit_code == 2 and "--resume keeps what was trained" in " ".join(result.stderr.split())
    assert (Path(distilled["bundle_path"]) / "bundle.yaml").read_bytes() == before


def test_fewer_layers_than_before_the_first_exit_are_refused_before_any_training(
    profiled: dict[str, Any], run: Run
) -> None:
    result = run("distill", "--target-layers", "1", "--quiet")
    assert result.exit_code == 2 and "1 layers: the first exit stands behind 2" in " ".join(result.stderr.split())
    assert not Path("runs/tiny/bundles").exists()


def test_resuming_goes_on_with_this_training_and_no_earlier_one(
    distilled: dict[str, Any], document: Documents, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before stage 2, where the first training left its checkpoints."""
    other = ("distill", "--set", "distill.adapter_lr=0.01", "--quiet")

    def interrupt(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Rounds, "on_policy", interrupt)
        assert run(*other).exit_code == 130
    assert document(*other, "--resume")["stage"] == 2


@pytest.mark.parametrize("method", ["dysl-paper", "mole"])
def test_other_suites_are_for_exits(profiled: dict[str, Any], run: Run, method: str) -> None:
    result = run("distill", "--method", method, "--set", "distill.suites=[tiny_reach]")
    assert result.exit_code == 2 and "learns from the run's suite alone" in result.stderr


def test_a_setting_of_the_other_method_is_refused(profiled: dict[str, Any], run: Run) -> None:
    result = run("distill", "--lambda", "0.25")
    assert result.exit_code == 2 and "no setting 'penalty_weight' for this method" in result.stderr


def test_lambda_is_the_weight_of_executed_layers(profiled: dict[str, Any], document: Documents) -> None:
    document("distill", "--method", "dysl-paper", "--stage", "1", "--lambda", "0.25")
    assert read_yaml(Path("runs/tiny/config/distill-stage1.yaml"))["distill"]["penalty_weight"] == 0.25


def test_stage_2_needs_stage_1(profiled: dict[str, Any], run: Run) -> None:
    result = run("distill", "--stage", "2")
    assert result.exit_code == 2 and "--stage 1" in result.stderr


def test_eval_compares_methods_on_the_same_episodes(distilled: dict[str, Any], document: Documents) -> None:
    found = document("eval", "--episodes", "2")
    assert found["schema"] == "dyslctl.eval/1" and found["suite"] == "tiny_reach" and found["episodes"] == 2
    assert list(found["methods"]) == ["full", "random-skip-adapters", "dysl"]  # fmt: skip
    for method in found["methods"].values():
        assert {
            "successes", "success_rate", "success_ci95", "errors", "mean_layers_run", "llm_ms_mean", "llm_ms_p50",
            "verifications_per_episode",
        } <= set(method)  # fmt: skip
        assert method["errors"] == 0
    assert found["methods"]["full"]["mean_layers_run"] == 8
    assert set(found["paired"]) == set(found["methods"]) - {"full"} | {"dysl vs random-skip-adapters"}
    assert 2 <= found["target_layers"] <= 16


def test_the_model_card_says_what_was_calibrated_and_found(distilled: dict[str, Any], document: Documents) -> None:
    card = Path(distilled["bundle_path"]) / "README.md"
    assert "log tolerance" in card.read_text() and "Not evaluated yet" in card.read_text()
    found = document("eval", "--episodes", "2", "--method", "full,dysl")["methods"]["dysl"]
    row = next(line for line in card.read_text().splitlines() if line.startswith("| dysl on tiny_reach, test |"))
    assert f"| {found['success_rate']:.1%} [" in row and f"| 2 | {found['mean_layers_run']:.2f} |" in row


def test_eval_resumes_to_the_same_result(distilled: dict[str, Any], document: Documents) -> None:
    arguments = ("eval", "--episodes", "2", "--method", "full,random-skip-adapters,dysl")
    whole = document(*arguments)
    log = Path("runs/tiny/eval/tiny_reach/episodes.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]) + lines[2][:10])  # killed in the middle of the third line
    resumed = document(*arguments, "--resume")
    assert _without_times(resumed) == _without_times(whole)
    assert len(log.read_text().splitlines()) == 6


def test_eval_side_by_side_finds_the_same_but_no_latency(distilled: dict[str, Any], document: Documents) -> None:
    arguments = ("eval", "--episodes", "3", "--method", "full,random-skip-adapters,dysl")
    alone, together = document(*arguments), document(*arguments, "--batch", "4")
    assert (alone["batch"], together["batch"]) == (1, 4)
    assert _without_times(together) == {**_without_times(alone), "batch": 4}
    for method in together["methods"].values():
        assert method["errors"] == 0 and method["llm_ms_mean"] is None and method["llm_ms_p50"] is None


def test_eval_in_bfloat16_takes_a_float32_bundle(distilled: dict[str, Any], document: Documents, run: Run) -> None:
    arguments = ("eval", "--episodes", "2", "--method", "full,dysl")
    document(*arguments)
    half = document(*arguments, "--set", "model.dtype=bfloat16")
    assert [method["errors"] for method in half["methods"].values()] == [0, 0]
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 4 and "about.dtype: then 'bfloat16', now 'float32'" in resumed.stderr


def test_eval_does_not_resume_another_evaluation(distilled: dict[str, Any], document: Documents, run: Run) -> None:
    document("eval", "--episodes", "2", "--method", "full")
    result = run("eval", "--episodes", "1", "--method", "full", "--resume")
    assert result.exit_code == 4 and "episodes: then 2, now 1" in result.stderr


def test_full_needs_no_bundle(profiled: dict[str, Any], document: Documents) -> None:
    found = document("eval", "--method", "full")
    assert list(found["methods"]) == ["full"] and found["target_layers"] is None


def test_a_method_without_its_bundle_says_what_makes_it(profiled: dict[str, Any], run: Run) -> None:
    result = run("eval", "--method", "dysl")
    assert result.exit_code == 4 and "dyslctl distill" in result.stderr


def test_an_edited_bundle_setting_takes_effect_in_the_same_process(paper: dict[str, Any], document: Documents) -> None:
    settings = Path("runs/tiny/bundles/dysl-paper/bundle.yaml")
    layers = []
    for tau in (0.0, 1.0):  # always skip, never skip
        before = read_yaml(settings)["guidance"]["tau"]
        settings.write_text(settings.read_text().replace(f"tau: {before}", f"tau: {tau}"))
        found = document("eval", "--method", "dysl-paper-no-pre")
        layers.append(found["methods"]["dysl-paper-no-pre"]["mean_layers_run"])
    assert layers[0] < layers[1] == 8


def test_the_papers_methods_side_by_side(paper: dict[str, Any], document: Documents) -> None:
    names = ["full", "random-skip", *(name for name in methods.names() if name.startswith("dysl-paper"))]
    found = document("eval", "--method", ",".join(names), "--batch", "2")
    assert list(found["methods"]) == names
    assert all(method["errors"] == 0 for method in found["methods"].values())
    assert "| dysl-paper on tiny_reach, test |" in Path("runs/tiny/bundles/dysl-paper/README.md").read_text()
    assert "Not evaluated yet" in Path("runs/tiny/bundles/dysl/README.md").read_text()


def test_a_threshold_fails_after_the_result_is_out(distilled: dict[str, Any], run: Run, tmp_path: Path) -> None:
    summary = tmp_path / "new" / "summary.md"
    arguments = ["eval", "--method", "full", "--json", "--summary", str(summary)]
    result = run(*arguments, "--fail-if", "full.mean_layers_run >= 8")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["schema"] == "dyslctl.eval/1"
    assert "full.mean_layers_run >= 8 (found 8)" in result.stderr
    assert run(*arguments, "--fail-if", "full.mean_layers_run > 8").exit_code == 0
    text = summary.read_text()
    assert text.count("### Success on tiny_reach") == 2  # appended, not replaced
    assert text.count("[!CAUTION]") == 1


@pytest.mark.parametrize("condition", ["dysl.success_rate", "full.success_rate < high", "import os"])
def test_a_bad_condition_fails_before_any_work(distilled: dict[str, Any], run: Run, condition: str) -> None:
    assert run("eval", "--fail-if", condition).exit_code == 2
    assert not Path("runs/tiny/eval").exists()


def test_a_condition_on_an_unknown_number_fails_before_any_work(distilled: dict[str, Any], run: Run) -> None:
    result = run("eval", "--method", "full", "--fail-if", "full.sucess_rate < 1")
    assert result.exit_code == 2 and "Did you mean 'full.success_rate'?" in result.stderr
    result = run("bench", "--method", "full", "--compare", "transformers", "--fail-if", "vs-transformer.ratio < 1")
    assert result.exit_code == 2 and "Did you mean 'vs-transformers'?" in result.stderr
    assert not Path("runs/tiny/eval").exists() and not Path("runs/tiny/bench").exists()


def test_an_unknown_method_is_a_usage_error(distilled: dict[str, Any], run: Run) -> None:
    result = run("eval", "--method", "full,dysel")
    assert result.exit_code == 2 and "Did you mean 'dysl'?" in result.stderr


def test_bench_measures_here(distilled: dict[str, Any], document: Documents) -> None:
    found = document("bench", "--device", "cpu", "--method", "full,dysl")
    assert found["schema"] == "dyslctl.bench/1" and found["device"] == "cpu"
    assert [(row["method"], row["source"]) for row in found["rows"]] == [("full", "measured"), ("dysl", "measured")]
    for row in found["rows"]:
        assert {"llm_ms_p50", "end_to_end_ms_p50", "layers_run", "speedup"} <= set(row)
    assert {"skip_efficiency", "controller_overhead"} <= set(found)


def test_bench_predicts_elsewhere(distilled: dict[str, Any], document: Documents) -> None:
    found = document("bench", "--device", "orin", "--as", "tiny-1b", "--method", "full")
    assert {row["source"] for row in found["rows"]} == {"predicted"}
    assert found["rows"][0]["layers_run"] == 24


def test_bench_thresholds_name_methods_and_headlines(distilled: dict[str, Any], run: Run) -> None:
    conditions = ["--fail-if", "controller_overhead < -100", "--fail-if", "full.layers_run == 8"]
    result = run("bench", "--method", "full,dysl", *conditions)
    assert result.exit_code == 5
    assert "full.layers_run == 8" in result.stderr and "controller_overhead" not in result.stderr


def test_pruned_tokens_are_counted(distilled: dict[str, Any], document: Documents, run: Run) -> None:
    found = document("eval", "--method", "full,divprune,dysl", "--set", "pruning.keep=0.25")["methods"]
    assert [found[name]["mean_tokens"] for name in ("full", "divprune", "dysl")] == [13, 10, 13]
    assert found["divprune"]["mean_layers_run"] == 8
    rows = document("bench", "--method", "divprune", "--set", "pruning.keep=0.25")["rows"]
    assert [(row["method"], row["layers_run"], row["mean_tokens"]) for row in rows] == [
        ("full", 8, 13), ("divprune", 8, 10),
    ]  # fmt: skip
    refused = run("bench", "--device", "orin", "--as", "tiny-1b", "--method", "divprune")
    assert refused.exit_code == 2 and "no prediction for that yet" in refused.stderr
    assert run("eval", "--method", "divprune", "--set", "pruning.keep=0").exit_code == 2
    resumed = run("eval", "--method", "full,divprune,dysl", "--set", "pruning.keep=0.5", "--resume")
    assert resumed.exit_code == 4 and "about.pruning.keep: then 0.25, now 0.5" in resumed.stderr


def test_bench_against_a_baseline(distilled: dict[str, Any], document: Documents, run: Run, tmp_path: Path) -> None:
    """What it left in the run serves as one; a baseline that was a thousand times faster fails, and is told why."""
    arguments = ("bench", "--method", "full,dysl", "--baseline")
    measured = document("bench", "--method", "full,dysl")
    kept = Path("runs") / Path("runs/current").read_text(encoding="utf-8").strip() / "bench" / "cpu" / "result.json"
    found = document(*arguments, str(kept), "--max-regress", "100000%")
    assert {(c["method"], c["figure"]) for c in found["changes"]} >= {("full", "llm_ms_p50"), ("dysl", "llm_ms_mean")}
    for row in measured["rows"]:
        row |= {key: row[key] / 1000 for key in ("llm_ms_p50", "llm_ms_mean", "end_to_end_ms_p50")}
    fast, summary = tmp_path / "fast.json", tmp_path / "summary.md"
    fast.write_text(json.dumps(measured), encoding="utf-8")
    result = run(
        *arguments, str(fast), "--max-regress", "5%", "--fail-if", "full.layers_run > 0", "--summary", str(summary)
    )
    assert result.exit_code == 5
    for said in (result.stderr, summary.read_text(encoding="utf-8")):
        assert "slower than the baseline by more than 5%" in said and "full.layers_run > 0" in said
    assert "Against the baseline" in result.stdout
    fast.write_text(json.dumps({**measured, "machine": "another chip"}), encoding="utf-8")
    refused = run(*arguments, str(fast))
    assert refused.exit_code == 4 and "machine: then 'another chip', now" in refused.stderr


@pytest.mark.parametrize("arguments", [["--max-regress", "5%"], ["--baseline", "x.json", "--max-regress", "5"]])
def test_bench_says_what_a_comparison_needs(distilled: dict[str, Any], run: Run, arguments: list[str]) -> None:
    result = run("bench", *arguments)
    assert result.exit_code == 2 and "--max-regress: expected" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--device", "orinn"], ["--device", "orin", "--as", "huge"], ["--as", "tiny-1b"]]
)
def test_bench_refuses_what_it_cannot_do(distilled: dict[str, Any], run: Run, arguments: list[str]) -> None:
    assert run("bench", *arguments).exit_code == 2


def test_report_gathers_what_there_is(distilled: dict[str, Any], document: Documents) -> None:
    document("eval", "--method", "full,dysl")
    found = document("report")
    html = Path(found["report_path"]).read_text(encoding="utf-8")
    assert found["schema"] == "dyslctl.report/1"
    assert html.count("data:image/png;base64,") == 5  # heat map, bars, two training curves, success
    assert "http" not in html.replace('content="width', "") and "<script" not in html
    for heading in ("Summary", "Profile", "Distillation", "Evaluation", "Environment"):
        assert f">{heading}</h2>" in html


def test_report_leaves_out_what_belongs_to_an_earlier_profile(distilled: dict[str, Any], document: Documents) -> None:
    assert len(document("report")["results"]) == 4
    document("profile", "--ratio", "0.75")
    assert document("report")["results"] == ["dyslctl.profile/1"]


def test_report_puts_no_two_bundles_into_one_row(distilled: dict[str, Any], document: Documents) -> None:
    document("eval", "--method", "full,dysl")
    settings = Path("runs/tiny/bundles/dysl/bundle.yaml")
    settings.write_text(settings.read_text() + "# calibrated anew\n")
    document("bench", "--method", "full,dysl")
    shown = summary(gather(RunDirectory(Path("runs/tiny"))))
    assert [column.header for column in shown.columns] == ["method", "LLM ms on cpu, measured", "speedup"]
    assert shown.notes == ["not here, since a bundle has changed: eval on tiny_reach"]
    document("eval", "--method", "full,dysl")
    assert "success on tiny_reach" in [c.header for c in summary(gather(RunDirectory(Path("runs/tiny")))).columns]


def test_report_of_an_empty_run(profiled: dict[str, Any], run: Run) -> None:
    Path("runs/tiny/result.json").unlink()
    result = run("report")
    assert result.exit_code == 4 and "dyslctl profile" in result.stderr


def test_demo_goes_the_whole_way(document: Documents) -> None:
    small = ["--set", "eval.methods=[full, dysl]"]
    found = document("demo", "tiny", *small)
    assert found["schema"] == "dyslctl.demo/1"
    assert [found[stage]["schema"] for stage in ("profile", "distill_stage1", "eval", "bench_cpu", "bench_orin")] == [
        "dyslctl.profile/1", "dyslctl.distill/1", "dyslctl.eval/1", "dyslctl.bench/1", "dyslctl.bench/1",
    ]  # fmt: skip
    assert Path(found["report_path"]).stat().st_size > 100_000
    assert Path("runs/current").read_text() == "demo\n"


@pytest.mark.parametrize(
    "asked", ["calibrate.target_layers=5", "calibrate.max_success_drop=90", "distill.method=flexidepth"]
)
def test_demo_takes_the_settings_of_its_commands(document: Documents, asked: str) -> None:
    found = document("demo", "tiny", "--set", "eval.methods=[full]", "--set", "bench.methods=[full]", "--set", asked)
    assert found["distill_stage2"]["stage"] == 2
    assert ("distill_stage1" in found) == ("flexidepth" not in asked)


def test_tables_are_for_people(distilled: dict[str, Any], run: Run) -> None:
    result = run("eval", "--method", "full", "--quiet")
    assert "Success on tiny_reach" in result.stdout and "95 % interval" in result.stdout
    assert result.stderr == ""


def test_without_a_run_every_command_says_how_to_start(run: Run) -> None:
    for command in ("profile", "distill", "eval", "bench", "report"):
        result = run(command)
        assert result.exit_code == 2, command
        assert "dyslctl profile" in result.stderr


def test_an_unknown_run_names_the_known_ones(profiled: dict[str, Any], run: Run) -> None:
    result = run("eval", "--run", "tinny")
    assert result.exit_code == 2 and "Did you mean 'tiny'?" in result.stderr


def test_an_unknown_setting(profiled: dict[str, Any], run: Run) -> None:
    result = run("eval", "--set", "eval.episods=3")
    assert result.exit_code == 2 and "Did you mean 'episodes'?" in result.stderr


def test_a_config_file_lies_below_the_flags(profiled: dict[str, Any], document: Documents, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("eval: {episodes: 3, methods: [full]}\n")
    assert document("eval", "--config", "mine.yaml")["episodes"] == 1
    kept = read_yaml(Path("runs/tiny/config/eval-tiny_reach.yaml"))
    assert kept["eval"]["methods"] == ["full"] and kept["eval"]["episodes"] == 1


def test_an_unwritable_run_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file stands in the way")
    result = run("profile", "tiny")
    assert result.exit_code == 3 and "runs" in result.stderr


def test_an_unexpected_exception_is_an_internal_error(
    profiled: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(name: str) -> None:
        raise ZeroDivisionError("in a plugin")

    monkeypatch.setattr(plugins, "load_suite", explode)
    result = run("eval")
    assert result.exit_code == 1 and result.stderr.startswith("error: ZeroDivisionError: in a plugin\n")


def _without_times(document: dict[str, Any]) -> dict[str, Any]:
    methods = {
        name: {key: value for key, value in found.items() if "_ms_" not in key}
        for name, found in document["methods"].items()
    }
    return {**document, "methods": methods}

"""Both stages of ``dysl`` on the tiny backbone, a SIGKILL in the middle, and what must not work."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dyslctl.artifacts.bundle import CARD, WEIGHTS, load_bundle
from dyslctl.artifacts.bundle_settings import Exits
from dyslctl.backbone import Backbone
from dyslctl.baselines.random_skip import RandomExits
from dyslctl.baselines.static_exit import EpisodeExit
from dyslctl.dysl.exit_schedule import ExitLadder
from dyslctl.dysl.exits import DAMAGE_FLOOR, ExitSizes
from dyslctl.dysl.query_layout import QueryLayout
from dyslctl.errors import ArtifactError, ConfigError
from dyslctl.jobs.distill_exits import ExitTraining, distill_exits
from dyslctl.jobs.distill_paper import DistillSettings, distill_paper
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.exit_samples import ExitSamples, planner_samples
from dyslctl.jobs.fit_guidance import fit_guidance
from dyslctl.jobs.profile import profile
from dyslctl.jobs.trained_exits import load_exits, new_exits
from dyslctl.jobs.trained_paper import load_modules
from dyslctl.types import LayerState

STAGE1 = ExitTraining(
    stage=1, steps=60, warmup=5, batch_size=16, adapter_lr=5e-3, precision="fp32", checkpoint_every=10
)
STAGE2 = dataclasses.replace(STAGE1, stage=2, steps=30, planner_steps=60)


@pytest.fixture(scope="module")
def work(tiny_backbone, tiny_suite):
    """Backbone, profile, rounds."""
    backbone, suite = tiny_backbone(), tiny_suite()
    made = profile(backbone, suite, plugin_name="tiny", checkpoint="here", samples=16, ratio=0.4).profile
    return backbone, made, Rounds(backbone, [suite], episodes=4, lanes=4)


@pytest.fixture(scope="module")
def stage1(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1")
    return distill_exits(*work, STAGE1, out=folder / "out", bundle=folder / "bundle")


@pytest.fixture(scope="module")
def stage2(work, stage1, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    return distill_exits(*work, STAGE2, out=folder / "out", bundle=folder / "bundle", init=stage1.bundle_path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if "self_test" not in name}


def equal(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_stage_1_teaches_the_adapters_alone(work, stage1) -> None:
    backbone, made, rounds = work
    assert stage1.loss_last < 0.8 * stage1.loss_first
    modules = load_exits(stage1.bundle_path, made, backbone).modules
    assert set(stage1.curve[0]) == {"step", "loss", *(f"exit_{layer}" for layer in modules.exits)}
    assert all(stage1.curve[-1][f"exit_{e}"] < stage1.curve[0][f"exit_{e}"] for e in modules.exits)
    # H = r = 16, P = 4 * 3 + 1: 2 H r + r + H + 2 H + 4 r P = 576 + 832.
    assert stage1.trainable_parameters == len(modules.exits) * 1408
    training = load_bundle(stage1.bundle_path).header.training
    assert (training.method, training.stage, training.samples) == ("dysl", 1, len(rounds.explored))


def test_stage_2_learns_from_every_round(work, stage1, stage2) -> None:
    """Three rounds, each collected with the exits as they then are; 30 steps follow each."""
    training = load_bundle(stage2.bundle_path).header.training
    assert training.stage == 2 and training.samples is not None
    assert training.samples > len(work[2].explored)
    assert not equal(stage1.bundle_path, stage2.bundle_path)
    assert stage2.trainable_parameters > stage1.trainable_parameters
    assert (stage2.curve[0]["step"], stage2.curve[-1]["step"]) == (stage1.curve[0]["step"], 89)
    steps = [entry["step"] for entry in stage2.curve]
    assert steps == sorted(set(steps))
    found = sorted(path.name for path in (stage2.bundle_path.parent / "out").glob("*.safetensors"))
    assert found == [
        "planner.safetensors",
        "round1-checkpoint.safetensors",
        "round2-checkpoint.safetensors",
        "round3-checkpoint.safetensors",
    ]


@pytest.mark.parametrize(("method", "rounds", "visitor"), [("dysl", 3, RandomExits), ("static", 2, EpisodeExit)])
def test_each_round_is_visited_by_the_exits_as_they_are(
    work, stage1, tmp_path, monkeypatch, method, rounds, visitor
) -> None:
    visitors, adapted, collected = [], [], Rounds.on_policy
    state = LayerState.of(work[2].explored.batch(0, 0, 2).inputs)
    hidden = state.hidden.gather(1, QueryLayout.of(state, 4).keep[..., None].expand(-1, -1, 16))

    def on_policy(given, number, schedule):
        visitors.append((number, type(schedule)))
        jump = schedule.ladder.jump(schedule.ladder.exits[0], state, torch.zeros(2, 13))
        adapted.append(jump.through(hidden))
        return collected(given, number, schedule)

    monkeypatch.setattr(Rounds, "on_policy", on_policy)
    settings = dataclasses.replace(STAGE2, steps=5, rounds=rounds, planner_steps=2)
    where = {"out": tmp_path / "o", "bundle": tmp_path / "b", "init": stage1.bundle_path, "method": method}
    trained = distill_exits(*work, settings, **where)
    assert visitors == [(number, visitor) for number in range(1, rounds + 1)]
    first = load_exits(stage1.bundle_path, work[1], work[0]).modules
    ladder = ExitLadder(first)
    started = ladder.jump(first.exits[0], state, torch.zeros(2, 13)).through(hidden)
    assert torch.equal(adapted[0], started)
    assert all(not torch.equal(before, after) for before, after in pairwise(adapted))
    assert trained.curve[-1]["step"] == 5 * rounds - 1
    assert load_bundle(trained.bundle_path).header.training.method == method


def test_without_a_memory_what_reads_it_learns_nothing(work, tmp_path) -> None:
    backbone, made, _ = work
    settings = dataclasses.replace(STAGE1, steps=5, remembers=False)
    trained = distill_exits(*work, settings, out=tmp_path / "o", bundle=tmp_path / "b")
    sizes = ExitSizes.of(backbone.spec, remembers=False)
    modules = load_exits(trained.bundle_path, made, backbone).modules
    assert modules.sizes == sizes
    untrained = new_exits(made, modules.exits, sizes, settings.seed)
    for exit_ in modules.exits:
        before, after = untrained.adapter(exit_), modules.adapter(exit_)
        assert torch.equal(after.recall.weight, before.recall.weight)
        assert not torch.equal(after.up.weight, before.up.weight)


@pytest.fixture(scope="module")
def on_subsets(work, tmp_path_factory):
    """Both stages, with token subsets."""
    folder = tmp_path_factory.mktemp("subsets")
    one, two = (dataclasses.replace(each, steps=5, rounds=1, token_subsets=True) for each in (STAGE1, STAGE2))
    first = distill_exits(*work, one, out=folder / "o1", bundle=folder / "b1")
    return distill_exits(*work, two, out=folder / "o2", bundle=folder / "b2", init=first.bundle_path)


def test_with_token_subsets_the_bundle_says_so_and_counts_every_sample_twice(work, stage1, on_subsets) -> None:
    rounds = work[2]
    first = load_bundle(on_subsets.bundle_path.parent / "b1")
    assert (first.header.training.token_subsets, first.header.training.samples) == (True, 2 * len(rounds.explored))
    assert load_bundle(on_subsets.bundle_path).header.training.token_subsets
    assert not load_bundle(stage1.bundle_path).header.training.token_subsets
    cards = [(folder / CARD).read_text() for folder in (on_subsets.bundle_path, stage1.bundle_path)]
    assert [", half of them on subsets of the visual tokens |" in card for card in cards] == [True, False]


def test_adapters_and_planner_learn_from_token_subsets_too(work, tmp_path, monkeypatch) -> None:
    """Every batch of the adapters comes from samples that are there twice, and so do the planner's features."""
    seen, learnt = [], []
    init, features = ExitSamples.__init__, planner_samples

    def spied(self, backbone, data, *rest, **options):
        seen.append(options["subset_seed"])
        init(self, backbone, data, *rest, **options)

    def counted(backbone, modules, samples, executed):
        found = features(backbone, modules, samples, executed)
        learnt.append((len(found[0]), len(samples), len(samples) % 2))
        return found

    monkeypatch.setattr(ExitSamples, "__init__", spied)
    monkeypatch.setattr("dyslctl.jobs.distill_exits.planner_samples", counted)
    short = {"steps": 2, "rounds": 1, "planner_steps": 2, "seed": 5}
    for subsets in (True, False):
        one, two = (dataclasses.replace(each, token_subsets=subsets, **short) for each in (STAGE1, STAGE2))
        first = distill_exits(*work, one, out=tmp_path / "o1", bundle=tmp_path / "b1")
        distill_exits(*work, two, out=tmp_path / "o2", bundle=tmp_path / "b2", init=first.bundle_path)
    assert seen == [5, 5, None, None]
    (with_subsets, samples, odd), (without, _, _) = learnt
    assert with_subsets == samples > without and not odd


def test_token_subsets_are_reproducible_and_a_training_of_their_own(work, stage1, on_subsets, tmp_path) -> None:
    where = {"out": tmp_path / "o", "bundle": tmp_path / "b"}
    again = dataclasses.replace(STAGE1, steps=5, rounds=1, token_subsets=True)
    distill_exits(*work, again, **where)
    assert equal(tmp_path / "b", on_subsets.bundle_path.parent / "b1")
    with pytest.raises(ConfigError, match="token_subsets: then True, now False"):
        distill_exits(*work, dataclasses.replace(again, token_subsets=False), **where, resume=True)
    plain = {"out": tmp_path / "p", "bundle": tmp_path / "plain"}
    distill_exits(*work, dataclasses.replace(again, token_subsets=False), **plain)
    assert not equal(tmp_path / "b", tmp_path / "plain")


@pytest.mark.parametrize(
    ("visual", "method", "found"),
    [
        (False, "dysl", "TinyBackbone, whose layers see no visual tokens: there is nothing to prune"),
        (True, "static", "the exits of 'static', which run on every token"),
        (True, "deer", "the exits of 'deer', which run on every token"),
    ],
)
def test_token_subsets_that_nothing_would_run_on_are_refused_before_any_work(
    tiny_backbone, work, tmp_path, visual, method, found
) -> None:
    backbone = tiny_backbone()
    backbone.spec = dataclasses.replace(backbone.spec, visual_tokens=visual)
    rounds = Rounds(backbone, [], episodes=1)  # no suite: a look at its states would fail in another way
    settings = dataclasses.replace(STAGE1, token_subsets=True)
    with pytest.raises(ConfigError, match=rf"^distill.token_subsets: expected .*; found {found}\n") as caught:
        distill_exits(backbone, work[1], rounds, settings, out=tmp_path / "o", bundle=tmp_path / "b", method=method)
    assert caught.value.hint == "leave distill.token_subsets out"
    assert not list(tmp_path.iterdir())


def test_token_subsets_need_a_backbone_that_shows_attention_before_any_work(tiny_backbone, work, tmp_path) -> None:
    class Silent(tiny_backbone):
        attention_rows = Backbone.attention_rows

    backbone, settings = Silent(), dataclasses.replace(STAGE1, token_subsets=True)
    with pytest.raises(ConfigError, match="Silent shows no attention to prune tokens by"):
        distill_exits(backbone, work[1], Rounds(backbone, [], 1), settings, out=tmp_path / "o", bundle=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_bundle_says_for_how_many_executed_actions_it_was_trained(work, stage1) -> None:
    backbone, made, rounds = work
    assert load_exits(stage1.bundle_path, made, backbone).execute_horizon == rounds.execute_horizon == 2


def test_the_planner_knows_more_than_the_mean(work, stage2) -> None:
    backbone, made, rounds = work
    modules = load_exits(stage2.bundle_path, made, backbone).modules
    samples = ExitSamples(backbone, rounds.explored, modules.exits, max_bytes=0)
    features, damages = planner_samples(backbone, modules, samples, executed=2)
    assert damages.shape == (len(samples), len(modules.exits)) and damages.min() >= torch.tensor(DAMAGE_FLOOR).log()
    with torch.no_grad():
        error = (modules.planner(features) - damages).square().mean()
    assert error < (damages - damages.mean(0)).square().mean()


def test_a_bundle_is_not_calibrated_yet(work, stage2) -> None:
    backbone, made, _ = work
    assert load_bundle(stage2.bundle_path).settings == Exits()
    with pytest.raises(ArtifactError, match="not calibrated yet"):
        load_exits(stage2.bundle_path, made, backbone).settings  # noqa: B018 - the look fails


def test_equal_seeds_give_equal_weights_and_others_do_not(work, stage1, tmp_path) -> None:
    again = distill_exits(*work, STAGE1, out=tmp_path / "o", bundle=tmp_path / "same")
    other = distill_exits(*work, dataclasses.replace(STAGE1, seed=1), out=tmp_path / "o", bundle=tmp_path / "other")
    assert equal(again.bundle_path, stage1.bundle_path)
    assert not equal(other.bundle_path, stage1.bundle_path)


def test_chosen_exits_and_sizes_reach_the_bundle(work, tmp_path) -> None:
    backbone, made, _ = work
    chosen = dataclasses.replace(STAGE1, steps=1, exits=(3, 6), adapter_width=2, planner_width=5)
    made_with = distill_exits(*work, chosen, out=tmp_path / "o", bundle=tmp_path / "b")
    modules = load_exits(made_with.bundle_path, made, backbone).modules
    assert (modules.exits, modules.sizes.adapter_rank, modules.sizes.planner_width) == ((3, 6), 2, 5)


def test_stage_2_without_stage_1_is_refused(work, tmp_path) -> None:
    with pytest.raises(ConfigError, match="starts from the exits of stage 1") as caught:
        distill_exits(
            *work, STAGE2, out=tmp_path / "o", bundle=tmp_path / "b", init=tmp_path / "nothing", method="static"
        )
    assert caught.value.hint == "dyslctl distill --stage 1 --method static comes first"
    assert not (tmp_path / "b").exists()


def test_a_bundle_of_the_other_method_is_refused(work, stage1, tmp_path) -> None:
    backbone, made, rounds = work
    settings = DistillSettings(stage=1, steps=1, batch_size=4, precision="fp32")
    distill_paper(backbone, made, rounds.explored, settings, out=tmp_path / "o", bundle=tmp_path / "paper")
    with pytest.raises(ArtifactError, match="expected the exits of dysl, found the modules of dysl-paper"):
        load_exits(tmp_path / "paper", made, backbone)
    with pytest.raises(ArtifactError, match="expected the modules of dysl-paper, found those of dysl"):
        load_modules(stage1.bundle_path, made, backbone)
    with pytest.raises(ArtifactError, match="expected the modules of dysl-paper"):
        fit_guidance(backbone, rounds.suites[0], made, stage1.bundle_path, episodes=1)


def test_resume_refuses_other_settings(work, tmp_path) -> None:
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle"}
    short = dataclasses.replace(STAGE1, steps=10)
    distill_exits(*work, short, **where)
    with pytest.raises(ConfigError, match=r"adapter_lr: then 0.005, now 0.001"):
        distill_exits(*work, dataclasses.replace(short, adapter_lr=1e-3), **where, resume=True)
    assert distill_exits(*work, dataclasses.replace(short, checkpoint_every=3), **where, resume=True).steps == 10


def test_resume_says_which_horizon_is_another(work, tiny_suite, tmp_path) -> None:
    backbone, made, rounds = work
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle"}
    short, other = dataclasses.replace(STAGE1, steps=2), tiny_suite()
    distill_exits(*work, short, **where)
    other.execute_horizon = 3
    reason = r"data, a digest of the states to learn from: then (.|\n)*execute_horizon: then 2, now 3"
    with pytest.raises(ConfigError, match=reason):
        distill_exits(backbone, made, dataclasses.replace(rounds, suites=[other]), short, **where, resume=True)


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)

from dyslctl.artifacts.skip_profile import SkipProfile
from dyslctl.jobs.distill_exits import ExitTraining, distill_exits
from dyslctl.jobs.exit_data import Rounds
from dyslctl.jobs.progress import NoProgress

class Kill(NoProgress):
    stretch, done = "", 0
    trained = 0
    def start(self, total, description):
        self.stretch, self.done = description, 0
        self.trained += description == "training"
    def advance(self, amount=1, **fields):
        self.done += amount
        if self.stretch == "training" and (self.trained, self.done) == (int(sys.argv[4]), 17):
            os.kill(os.getpid(), signal.SIGKILL)

folder, init = Path(sys.argv[2]), Path(sys.argv[3])
settings = ExitTraining(stage=2, steps=30, warmup=5, batch_size=16, adapter_lr=5e-3, precision="fp32",
                        checkpoint_every=10, planner_steps=60)
backbone = tiny.TinyBackbone()
rounds = Rounds(backbone, [tiny.TinyReach()], episodes=4, lanes=4)
distill_exits(backbone, SkipProfile.load(folder / "profile.yaml"), rounds, settings, out=folder / "out",
              bundle=folder / "bundle", init=init, progress=Kill())
"""


@pytest.mark.parametrize("training", ["1", "2", "3", "4"], ids=["round1", "round2", "round3", "planner"])
def test_a_killed_stage_2_resumes_to_the_same_weights(work, stage1, stage2, tmp_path, training) -> None:
    work[1].save(tmp_path / "profile.yaml")
    tiny = Path(__file__).parents[1] / "tiny.py"
    command = [sys.executable, "-c", KILLED, tiny, tmp_path, stage1.bundle_path, training]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "bundle").exists()
    where = {"out": tmp_path / "out", "bundle": tmp_path / "bundle", "init": stage1.bundle_path}
    resumed = distill_exits(*work, STAGE2, **where, resume=True)
    assert equal(resumed.bundle_path, stage2.bundle_path)
    assert resumed.curve == stage2.curve


def test_defaults_follow_the_size_of_the_model() -> None:
    mini, published = ExitTraining.default(2, 128), ExitTraining.default(2, 4096)
    assert (mini.steps, mini.rounds, mini.batch_size, mini.adapter_lr) == (800, 3, 128, 3e-3)
    assert ExitTraining.default(1, 128).steps == 400
    assert published.steps > mini.steps and published.adapter_lr < mini.adapter_lr
    assert (mini.planner().steps, published.planner().steps) == (6000, 75_000)
    assert mini.override({"planner_steps": 7}).planner().steps == 7
    with pytest.raises(ConfigError, match="no setting 'penalty_weight' for this method"):
        mini.override({"penalty_weight": 0.1})

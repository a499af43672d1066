import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dyslctl.errors import ArtifactError, ConfigError, EnvironmentMismatch
from dyslctl.jobs.dataset import Part
from dyslctl.jobs.training import Optimization, Trainee, train, uses_bf16

CPU = torch.device("cpu")


def trainee(identity: str = "same") -> Trainee:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    return Trainee(module, [(module, 1e-2)], {"name": identity})


def step_loss(target: Trainee, stop_at: int | None = None):
    def loss(step: int, part: Part) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = part.of(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))
        return (target.modules(x) - x.sum(1, keepdim=True)).square().mean(), {"x": float(x[0, 0])}

    return loss


def fp32(steps: int, **how: object) -> Optimization:
    return Optimization(steps=steps, precision="fp32", **how)


def test_rate_of_each_course_by_hand() -> None:
    constant = Optimization(steps=100, warmup=4)
    assert [constant.rate(step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert Optimization(steps=100, decay="linear").rate(75) == pytest.approx(0.25)
    assert Optimization(steps=100, decay="linear").rate(99) == pytest.approx(0.05)
    assert Optimization(steps=100, decay="cosine").rate(25) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_norms_and_biases_are_not_decayed() -> None:
    groups = trainee().optimizer(Optimization(steps=1, weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in groups] == [(0.1, {2}), (0.0, {1})]


def test_training_learns_and_logs(tmp_path: Path) -> None:
    learner = trainee()
    curve = train(learner, fp32(200), step_loss(learner), CPU, tmp_path / "c.safetensors")
    assert [entry["step"] for entry in curve] == list(range(200))
    losses = [entry["loss"] for entry in curve]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    assert set(curve[0]) == {"step", "loss", "x"}


def test_a_long_curve_is_thinned_out(tmp_path: Path) -> None:
    learner = trainee()
    curve = train(learner, fp32(1100), step_loss(learner), CPU, tmp_path / "c.safetensors")
    assert [entry["step"] for entry in curve[:3]] == [0, 2, 4]
    assert curve[-1]["step"] == 1099


@pytest.mark.parametrize(("stop_at", "accumulate"), [(3, 1), (10, 1), (14, 1), (14, 4)])
def test_an_interrupted_training_continues_to_the_same_bits(tmp_path: Path, stop_at: int, accumulate: int) -> None:
    how = fp32(20, checkpoint_every=5, warmup=3, decay="cosine", accumulate=accumulate)
    whole = trainee()
    curve = train(whole, how, step_loss(whole), CPU, tmp_path / "whole.safetensors")

    broken, checkpoint = trainee(), tmp_path / "broken.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(broken, how, step_loss(broken, stop_at), CPU, checkpoint)
    again = trainee()
    assert train(again, how, step_loss(again), CPU, checkpoint, resume=True) == curve
    for name, tensor in whole.modules.state_dict().items():
        assert torch.equal(again.modules.state_dict()[name], tensor), name


class Weight(nn.Module):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_gradient_of_micro_batches_by_hand(tmp_path: Path, accumulate: int) -> None:
    """``mean (w - x)^2`` at ``w = 0`` over x = 1, 2, 3, 6: loss (1 + 4 + 9 + 36) / 4, gradient -2 * 12 / 4."""
    learner, x, seen = Weight(), torch.tensor([1.0, 2.0, 3.0, 6.0]), []

    def loss(step: int, part: Part) -> tuple[Tensor, dict[str, float]]:
        rows = part.of(x)
        seen.extend(rows.tolist())
        return (learner.w - rows).square().mean(), {"x": float(rows.mean())}

    how = fp32(1, accumulate=accumulate, clip=100.0)
    curve = train(Trainee(learner, [(learner, 0.1)]), how, loss, CPU, tmp_path / "c.safetensors")
    assert curve == [{"step": 0, "loss": 12.5, "x": 3.0}]
    assert learner.w.grad is not None and learner.w.grad.tolist() == [-6.0]
    assert seen == [1, 2, 3, 6]


def test_what_another_training_left_is_no_part_of_the_norm(tmp_path: Path) -> None:
    """A gradient of 3 is clipped to 1; with the 4 that lies beside it, it would become 3 / 5."""
    learner, other = Weight(), Weight()
    other.w.grad = torch.tensor([4.0])

    def loss(step: int, part: Part) -> tuple[Tensor, dict[str, float]]:
        return 3 * learner.w.sum(), {}

    both = Trainee(nn.ModuleList([learner, other]), [(learner, 0.1)])
    train(both, fp32(1, clip=1.0), loss, CPU, tmp_path / "c.safetensors")
    assert learner.w.grad is not None and learner.w.grad.tolist() == pytest.approx([1.0], rel=1e-5)
    assert other.w.grad is None


@pytest.mark.parametrize("accumulate", [2, 8])
def test_micro_batches_learn_what_the_whole_batch_learns(tmp_path: Path, accumulate: int) -> None:
    whole, cut = trainee(), trainee()
    curve = train(whole, fp32(30), step_loss(whole), CPU, tmp_path / "whole.safetensors")
    same = train(cut, fp32(30, accumulate=accumulate), step_loss(cut), CPU, tmp_path / "cut.safetensors")
    assert [entry["loss"] for entry in same] == pytest.approx([entry["loss"] for entry in curve], rel=1e-4)
    for name, tensor in whole.modules.state_dict().items():
        torch.testing.assert_close(cut.modules.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_how_a_training_is_carried_out_is_not_its_identity() -> None:
    plain = fp32(7)
    assert fp32(7, accumulate=4, checkpoint_every=3, log="tensorboard").identity() == plain.identity()
    assert fp32(7, clip=0.5).identity() != plain.identity()
    assert plain.identity()["steps"] == 7


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_gets_every_step_once(tmp_path: Path) -> None:
    """A training that was interrupted after step 7 goes on from its checkpoint before step 5."""
    how, learner = fp32(12, checkpoint_every=5, log="tensorboard"), trainee()
    with pytest.raises(KeyboardInterrupt):
        train(learner, how, step_loss(learner, stop_at=8), CPU, tmp_path / "round.safetensors")
    again = trainee()
    curve = train(again, how, step_loss(again), CPU, tmp_path / "round.safetensors", resume=True)
    folder = tmp_path / "tensorboard" / "round"
    assert scalars(folder, "loss") == [(entry["step"], pytest.approx(entry["loss"])) for entry in curve]
    assert scalars(folder, "learning_rate")[0] == (0, pytest.approx(1e-2))
    assert all(norm > 0 for _, norm in scalars(folder, "gradient_norm")) and len(scalars(folder, "x")) == 12


def test_without_tensorboard_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    learner = trainee()
    with pytest.raises(EnvironmentMismatch, match=r"distill\.log=tensorboard needs tensorboard") as caught:
        train(learner, fp32(3, log="tensorboard"), step_loss(learner), CPU, tmp_path / "c.safetensors")
    assert caught.value.hint == "pip install 'dyslctl[logging]'"


def test_without_resume_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    learner, checkpoint = trainee(), tmp_path / "c.safetensors"
    train(learner, fp32(5), step_loss(learner), CPU, checkpoint)
    fresh = trainee()
    assert len(train(fresh, fp32(5), step_loss(fresh), CPU, checkpoint)) == 5
    assert torch.equal(fresh.modules[0].weight, learner.modules[0].weight)


def test_divergence_is_an_error_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    learner, checkpoint = trainee(), tmp_path / "c.safetensors"
    good = step_loss(learner)

    def loss(step: int, part: Part) -> tuple[Tensor, dict[str, float]]:
        value, parts = good(step, part)
        return (value * math.nan if step == 7 else value), parts

    with pytest.raises(ConfigError, match="diverged at step 7: loss nan"):
        train(learner, fp32(20, checkpoint_every=5), loss, CPU, checkpoint)
    fresh = trainee()
    assert len(train(fresh, fp32(20, checkpoint_every=5), step_loss(fresh), CPU, checkpoint, resume=True)) == 20


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    learner, checkpoint = trainee("then"), tmp_path / "c.safetensors"
    train(learner, fp32(5), step_loss(learner), CPU, checkpoint)
    other = trainee("now")
    with pytest.raises(ConfigError, match="name: then 'then', now 'now'"):
        train(other, fp32(5), step_loss(other), CPU, checkpoint, resume=True)


@pytest.mark.parametrize("keep", [0, 7, 200])
def test_a_damaged_checkpoint_is_an_artifact_error(tmp_path: Path, keep: int) -> None:
    learner, checkpoint = trainee(), tmp_path / "c.safetensors"
    train(learner, fp32(5), step_loss(learner), CPU, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        train(trainee(), fp32(5), step_loss(learner), CPU, checkpoint, resume=True)


def test_precision_is_taken_as_said() -> None:
    assert uses_bf16("bf16", CPU)
    assert not uses_bf16("fp32", CPU)

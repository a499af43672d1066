"""Recorded demonstrations at a model's image size, in three files that a training reads without decoding anything.

    python tools/train_mini/demo_cache.py demos/libero_object --out .scratch/object.cache --workers 2
    python tools/train_mini/demo_cache.py demos/libero_* --out .scratch/all.cache --stride 4 --quality 80
    python tools/train_mini/demo_cache.py libero_object --episodes 300 --disturb 0.15 --stride 4 --out .scratch/o.cache
    python tools/train_mini/demo_cache.py .scratch/o.cache .scratch/driven.cache --out .scratch/both.cache

The second form is for a journey: every fourth frame, as WebP. Whoever opens it first unpacks the images beside it.
Actions and proprioception are there for every step, whatever the stride. The third form lets a suite's expert act and
stores no data set: only the frames that are kept are painted, and episodes that the expert does not solve are left out.
The fourth puts caches one behind the other. With ``--policy CHECKPOINT`` that policy acts for the share of the steps
that ``--disturb`` says: ``driver.py``.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from driver import Driver
from dyslctl_openvla_oft.processing import views_of
from dyslctl_roboflamingo.images import fit
from PIL import Image

from dyslctl import plugins
from dyslctl.artifacts.files import atomic_folder, atomic_path, read_json, write_json
from dyslctl.data.of_suite import EPISODES, SuiteSource
from dyslctl.data.open import open_source
from dyslctl.data.source import DemonstrationSource
from dyslctl.errors import ArtifactError
from dyslctl.jobs.demo_disturbance import Disturbance
from dyslctl.policy import full_policy
from dyslctl.types import Observation

SCHEMA = "dyslctl.demo-cache/1"
Model = Literal["openvla-oft", "roboflamingo"]
BLOCK = 4096
"""Images in memory at a time."""
ABOUT, STEPS, RAW, PACKED = "cache.json", "steps.npz", "images.u8", "images.webp"


@dataclass(frozen=True)
class DemoCache:
    """All steps of all episodes one behind the other, ``M`` in number, and images of ``F`` of them.

    Attributes:
        images: ``[F, V, s, s, 3]`` uint8, mapped from the file.
        frames: ``[F]`` int64, the step that each frame shows.
        proprio: ``[M, P]`` float32.
        actions: ``[M, A]`` float32, the expert's.
        instruction: ``[M]`` int64, index into ``texts``.
        last: ``[M]`` int64, the last step of the same episode with the same instruction.
        held_out: ``[M]`` bool, not to learn from.
        texts: Instructions.
        sources: Where the episodes come from.
        episodes: How many there are to learn from.
    """

    images: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)
    proprio: np.ndarray = field(repr=False)
    actions: np.ndarray = field(repr=False)
    instruction: np.ndarray = field(repr=False)
    last: np.ndarray = field(repr=False)
    held_out: np.ndarray = field(repr=False)
    texts: Sequence[str]
    sources: Sequence[str]
    episodes: int

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The cache in ``folder``, its images unpacked.

        Raises:
            ArtifactError: If it is none.
        """
        about = read_json(folder / ABOUT, hint="make one: python tools/train_mini/demo_cache.py DEMOS --out CACHE")
        if about.get("schema") != SCHEMA:
            raise ArtifactError(f"{folder / ABOUT}: expected schema {SCHEMA}, found {about.get('schema')}")
        with np.load(folder / STEPS, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        sizes = columns.pop("sizes")
        if not (folder / RAW).exists():
            _unpack(folder, sizes)
        shape = (len(columns["frames"]), about["views"], about["size"], about["size"], 3)
        images = np.memmap(folder / RAW, np.uint8, "r", shape=shape)
        return cls(images, **columns, **{name: about[name] for name in ("texts", "sources", "episodes")})

    def chunks(self, steps: np.ndarray, length: int) -> np.ndarray:
        """``[len(steps), length, A]`` actions from each of ``steps`` on, the last of its instruction repeated."""
        index = np.minimum(steps[:, None] + np.arange(length), self.last[steps][:, None])
        return np.asarray(self.actions[index])

    def next_flip(self, gripper: int = -1) -> np.ndarray:
        """``[M]`` the step at which the fingers move next, under the same instruction; ``last`` if they do not."""
        closed, flip = self.actions[:, gripper] > 0, self.last.copy()
        for step in range(len(closed) - 2, -1, -1):
            if step < self.last[step]:
                flip[step] = step + 1 if closed[step + 1] != closed[step] else flip[step + 1]
        return flip


@dataclass(frozen=True)
class _Episode:
    images: list[bytes]
    frames: np.ndarray
    proprio: np.ndarray
    actions: np.ndarray
    texts: list[str]
    held_out: bool


@dataclass(frozen=True)
class Look:
    """How a cache shows its episodes.

    Attributes:
        size: Height and width of an image, pixels.
        stride: Images are kept of every so many steps, beginning elsewhere in each episode.
        quality: Of WebP, which needs half of what JPEG does; ``None``: raw.
        episodes: That a suite's expert begins.
        disturb: Share of the steps during which something pushes it; ``None``: nothing does.
        model: The plugin whose way of fitting images to ``size`` is used.
        policy: Checkpoint of that plugin, who drives during these steps instead.
    """

    size: int
    stride: int = 1
    quality: int | None = None
    episodes: int = EPISODES
    disturb: float | None = None
    model: Model = "openvla-oft"
    policy: str | None = None

    def views(self, observation: Observation) -> Iterable[np.ndarray]:
        """The views of ``observation``, ``[size, size, 3]`` uint8 each."""
        if self.model == "roboflamingo":
            return [fit(view, self.size) for view in observation.images.values()]
        return views_of(observation, tuple(observation.images), self.size)


def build(sources: Sequence[str], folder: Path, look: Look, workers: int = 1) -> None:
    """Read ``sources`` (whatever ``--data`` takes) and write the cache ``folder``, whole or not at all.

    Args:
        sources: Data sets or task suites; episodes are held out as :meth:`DemonstrationSource.numbers` says.
        folder: Where to.
        look: What is kept.
        workers: Processes.
    """
    tasks = [(name, number) for name in sources for number in _order(_source(name, look))]
    read = partial(_read, look=look)
    quality = look.quality
    with atomic_folder(folder) as temporary, (temporary / (RAW if quality is None else PACKED)).open("wb") as images:
        rows: list[_Episode] = []
        sizes: list[int] = []
        for episode in filter(None, _each(read, tasks, workers)):
            images.writelines(episode.images)
            sizes += [len(image) for image in episode.images]
            episode.images.clear()
            rows.append(episode)
        about = {"schema": SCHEMA, **asdict(look), "sources": list(sources)}
        _write_steps(temporary, rows, np.array(sizes), about)


def join(folders: Sequence[Path], folder: Path) -> None:
    """Write the cache ``folder`` of all that is in the caches ``folders``, whole or not at all.

    Raises:
        ArtifactError: If one is no cache, or shows other views or another size than the first.
    """
    caches = [DemoCache.open(each) for each in folders]
    shape = caches[0].images.shape[1:]
    for each, cache in zip(folders, caches, strict=True):
        if cache.images.shape[1:] != shape:
            raise ArtifactError(f"{each}: expected frames {shape} as in {folders[0]}, found {cache.images.shape[1:]}")
    texts = sorted({text for cache in caches for text in cache.texts})
    lengths = np.array([len(cache.actions) for cache in caches])
    starts = np.cumsum(lengths) - lengths
    columns = {
        "frames": np.concatenate([start + cache.frames for start, cache in zip(starts, caches, strict=True)]),
        "last": np.concatenate([start + cache.last for start, cache in zip(starts, caches, strict=True)]),
        "instruction": np.concatenate(
            [np.array([texts.index(text) for text in cache.texts])[cache.instruction] for cache in caches]
        ),
        **{
            name: np.concatenate([getattr(cache, name) for cache in caches])
            for name in ("proprio", "actions", "held_out")
        },
    }
    with atomic_folder(folder) as temporary:
        with (temporary / RAW).open("wb") as images:
            for cache in caches:
                cache.images.tofile(images)
        sizes = np.full(len(columns["frames"]) * shape[0], np.prod(shape[1:]))
        np.savez_compressed(temporary / STEPS, **columns, sizes=sizes)
        about = {"schema": SCHEMA, "size": shape[1], "views": shape[0], "texts": texts}
        about |= {"sources": [source for cache in caches for source in cache.sources]}
        about |= {"episodes": sum(cache.episodes for cache in caches)}
        about |= {"of": [read_json(each / ABOUT) for each in folders]}
        write_json(temporary / ABOUT, about)


def _each(read: Any, tasks: Sequence[tuple[str, int]], workers: int) -> Iterator[_Episode | None]:
    if workers == 1:
        yield from map(read, tasks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(read, tasks)


@lru_cache(maxsize=8)
def _source(name: str, look: Look) -> DemonstrationSource:
    if Path(name).exists() or name not in plugins.names(plugins.SUITES):
        return open_source(name)
    suite = plugins.load_suite(name)
    if look.disturb is None:
        return SuiteSource(suite, look.episodes)
    if look.policy is None:
        return SuiteSource(suite, look.episodes, Disturbance(look.disturb).of)
    backbone = plugins.load_backbone(look.model).load(look.policy)
    horizon = suite.execute_horizon
    return SuiteSource(suite, look.episodes, Driver(full_policy(backbone, horizon), horizon, look.disturb).of)


def _order(source: DemonstrationSource) -> Sequence[int]:
    """Task by task where an expert acts: it keeps the scene of one task."""
    numbers = range(len(source))
    return sorted(numbers, key=lambda n: source.specs[n].task) if isinstance(source, SuiteSource) else numbers


def _read(task: tuple[str, int], look: Look) -> _Episode | None:
    """One episode; ``None`` if the expert failed at it."""
    name, number = task
    source = _source(name, look)
    shown = source.episode(number)
    if isinstance(source, SuiteSource) and shown.score < source.max_score:
        return None
    frames = np.arange(number % look.stride, len(shown.observations), look.stride)
    quality = look.quality
    seen = [shown.observations[frame] for frame in frames]
    images = [
        view.tobytes() if quality is None else _encode(view, quality)
        for observation in seen
        for view in look.views(observation)
    ]
    proprio = np.stack([observation.proprio for observation in shown.observations]).astype(np.float32)
    texts = [observation.instruction for observation in shown.observations]
    actions, held_out = shown.actions.astype(np.float32), number in source.numbers("tune")
    return _Episode(images, frames, proprio, actions, texts, held_out)


def _encode(image: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "WEBP", quality=quality)
    return stream.getvalue()


def _write_steps(folder: Path, rows: Sequence[_Episode], sizes: np.ndarray, about: dict[str, Any]) -> None:
    texts = sorted({text for row in rows for text in row.texts})
    lengths = np.array([len(row.actions) for row in rows])
    starts = np.cumsum(lengths) - lengths
    instruction = np.array([texts.index(text) for row in rows for text in row.texts])
    episode = np.repeat(np.arange(len(rows)), lengths)
    ends = np.flatnonzero(np.append((np.diff(instruction) != 0) | (np.diff(episode) != 0), True))
    columns = {
        "frames": np.concatenate([start + row.frames for start, row in zip(starts, rows, strict=True)]),
        "proprio": np.concatenate([row.proprio for row in rows]),
        "actions": np.concatenate([row.actions for row in rows]),
        "instruction": instruction,
        "last": ends[np.searchsorted(ends, np.arange(len(instruction)))],
        "held_out": np.repeat([row.held_out for row in rows], lengths),
    }
    np.savez_compressed(folder / STEPS, **columns, sizes=sizes)
    views = len(sizes) // len(columns["frames"])
    write_json(
        folder / ABOUT, {**about, "views": views, "texts": texts, "episodes": sum(not row.held_out for row in rows)}
    )


def _unpack(folder: Path, sizes: np.ndarray) -> None:
    """Decode the images, on all cores: Pillow lets go of the interpreter meanwhile."""
    packed = np.memmap(folder / PACKED, np.uint8, "r")
    ends = np.cumsum(sizes)

    def decode(number: int) -> bytes:
        image = packed[ends[number] - sizes[number] : ends[number]]
        return np.asarray(Image.open(io.BytesIO(image.tobytes()))).tobytes()

    with atomic_path(folder / RAW) as temporary, temporary.open("wb") as file, ThreadPoolExecutor() as pool:
        for begin in range(0, len(sizes), BLOCK):
            file.writelines(pool.map(decode, range(begin, min(begin + BLOCK, len(sizes)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sources", nargs="+", help="task suites, data sets of `dyslctl demos` or what --data takes; or caches, to join"
    )
    parser.add_argument("--out", type=Path, required=True, help="the cache, a folder")
    parser.add_argument("--size", type=int, default=112, help="pixels along one side of an image")
    parser.add_argument("--stride", type=int, default=1, help="keep the images of every so many steps")
    parser.add_argument("--quality", type=int, help="store WebP of this quality; default: raw")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="that a suite's expert begins")
    parser.add_argument("--disturb", type=float, help="share of the steps during which something pushes that expert")
    parser.add_argument("--policy", help="checkpoint that acts during that share of the steps instead of any push")
    parser.add_argument("--model", choices=list(get_args(Model)), default="openvla-oft", help="that will learn from it")
    args = parser.parse_args()
    if args.policy and args.disturb is None:
        parser.error("--policy: expected --disturb SHARE beside it, the share of the steps that the policy drives")
    caches = [Path(source) for source in args.sources if (Path(source) / ABOUT).is_file()]
    if caches:
        if len(caches) < len(args.sources):
            parser.error("expected caches alone, or none, found both")
        join(caches, args.out)
        return
    look = Look(args.size, args.stride, args.quality, args.episodes, args.disturb, args.model, args.policy)
    build(args.sources, args.out, look, args.workers)


if __name__ == "__main__":
    main()

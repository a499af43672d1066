"""Training data, made while training: scenes that an expert or the policy drives, labelled by the expert at every stop.

Three habits make a small policy ground its instruction instead of memorising motions: grippers are teleported to random
places (also low, and above the wrong block), half the scenes are soon driven by the policy itself and labelled by the
expert (DAgger), and expert-driven scenes are shaken by noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dyslctl.suites.tabletop import geometry as geo
from dyslctl.suites.tabletop.camera import project_agent, project_wrist
from dyslctl.suites.tabletop.expert import expert_chunk
from dyslctl.suites.tabletop.render import render
from dyslctl.suites.tabletop.tasks import SPLIT_SIZE, SuiteKind
from dyslctl.suites.tabletop.world import NOTHING, World

CHUNK = 8
HORIZON = 4
"""Actions executed before the next look, in training as in evaluation: trained at one, a policy stalls at another."""
NOISE_LEVELS = (0.0, 0.05, 0.15, 0.4)
MID_HEIGHT = np.array([0.0, 0.0, geo.BLOCK_HEIGHT / 2], np.float32)

Frames = dict[str, np.ndarray]
"""Column -> ``[B, ...]``; see :func:`observe`."""
Act = Callable[[Frames], np.ndarray]
"""Frames -> ``[B, CHUNK, 7]`` executed actions."""


def observe(world: World, vocabulary: dict[str, int]) -> Frames:
    """What the model sees of each scene, the expert's chunk, and what auxiliary losses ask for."""
    agent, wrist = render(world)
    scene = np.arange(len(world))
    blocks = world.block_xyz + MID_HEIGHT
    bins = np.concatenate([world.bin_xy, np.zeros((len(world), 2, 1), np.float32)], -1)
    points = np.concatenate([blocks, bins], 1).astype(np.float32)
    kinds = np.concatenate([np.where(world.block_present, world.block_colour, -1), np.tile([6, 7], (len(world), 1))], 1)
    carrying = world.held == world.target
    aim = np.where(carrying[:, None], world.goal_xy, world.target_xy)
    turn = np.where(carrying, 0.0, world.block_yaw[scene, world.target]) - world.gripper_yaw
    return {
        "agent": agent,
        "wrist": wrist,
        "proprio": world.proprio(),
        "instruction": np.array([vocabulary[text] for text in world.instructions()]),
        "actions": expert_chunk(world, CHUNK),
        "agent_points": project_agent(points).astype(np.float32),
        "wrist_points": project_wrist(world.gripper, world.gripper_yaw, points).astype(np.float32),
        "point_kinds": kinds,
        "target_point": world.target,
        "goal_point": geo.MAX_BLOCKS + world.goal,
        "scene_xy": np.concatenate([world.target_xy, world.goal_xy], -1).astype(np.float32),
        "relative": np.column_stack([aim - world.gripper[:, :2], turn, world.goal_xy - world.gripper[:, :2]]).astype(
            np.float32
        ),
    }


@dataclass
class Actor:
    """Scenes of one suite that go on from call to call.

    Attributes:
        kind: The suite.
        count: Scenes.
        rng: Drives everything random here.
        vocabulary: Instruction -> its number.
        policy_share: Share of new episodes that the policy drives; the trainer raises it from 0.
    """

    kind: SuiteKind
    count: int
    rng: np.random.Generator
    vocabulary: dict[str, int]
    policy_share: float = 0.0

    def __post_init__(self) -> None:
        self.world = World.sample(self.kind, self._seeds(self.count))
        self.noise = self.rng.choice(NOISE_LEVELS, self.count)
        self.by_policy = np.zeros(self.count, bool)
        self.shaken = np.zeros(self.count, bool)
        self.teleports = np.ones(self.count, bool)
        self.finished: list[bool] = []
        self.world.clock += self.rng.integers(0, 80, self.count)

    def advance(self, act: Act | None) -> Frames:
        """Label every live scene, then execute ``HORIZON`` actions in each; over episodes begin anew."""
        self._restart()
        self._teleport()
        frames = observe(self.world, self.vocabulary)
        chunk = frames["actions"][:, :HORIZON].copy()
        noisy = self.noise[:, None, None] * self.rng.normal(size=chunk[..., :6].shape)
        if act is not None and self.by_policy.any():
            driven = np.flatnonzero(self.by_policy)
            chunk[driven] = act({name: column[driven] for name, column in frames.items()})[:, :HORIZON]
            noisy[driven] = 0.3 * (self.shaken[driven] & (self.rng.random(len(driven)) < 0.25))[:, None, None]
            noisy[driven] *= self.rng.normal(size=noisy[driven].shape)
        chunk[..., :6] += noisy
        for step in range(HORIZON):
            self.world.step(np.clip(chunk[:, step], -1, 1))
        return frames

    def success_rate(self) -> float:
        """Share of solved episodes among those the policy drove undisturbed since the last call."""
        solved, self.finished = self.finished, []
        return float(np.mean(solved)) if solved else float("nan")

    def _seeds(self, count: int) -> np.ndarray:
        return self.rng.integers(0, SPLIT_SIZE, count)

    def _restart(self) -> None:
        over = self.world.done | (~self.by_policy & (self.world.clock > self.rng.integers(90, 160, self.count)))
        clean = over & self.by_policy & ~self.shaken & ~self.teleports
        self.finished += self.world.finished[clean].tolist()
        count = int(over.sum())
        if count == 0:
            return
        self.world.reset_where(over, self._seeds(count))
        self.noise[over] = self.rng.choice(NOISE_LEVELS, count)
        self.by_policy[over] = self.rng.random(count) < self.policy_share
        self.shaken[over] = self.rng.random(count) < 0.3
        self.teleports[over] = ~self.by_policy[over] | (self.rng.random(count) < 0.15)

    def _teleport(self) -> None:
        """Move some grippers: anywhere, or near a random block or bin (with a block in hand: near a random bin)."""
        jump = self.teleports & (self.rng.random(self.count) < 0.2) & ~self.world.done
        holding = self.world.held != NOTHING
        block = self.world.block_xyz[np.arange(self.count), self.rng.integers(0, geo.MAX_BLOCKS, self.count), :2]
        box = self.world.bin_xy[np.arange(self.count), self.rng.integers(0, 2, self.count)]
        near = np.where(holding[:, None], box, block) + 0.07 * self.rng.normal(size=(self.count, 2))
        anywhere = self.rng.uniform(-0.9, 0.9, (self.count, 2))
        close = self.rng.random(self.count) < 0.5
        xy = np.where(close[:, None], near, anywhere)
        z = np.where(close, self.rng.uniform(0.08, 0.6, self.count), self.rng.uniform(0.2, 0.8, self.count))
        self.world.teleport_gripper(
            jump, np.column_stack([xy, z]).astype(np.float32), 0.25 * self.rng.normal(size=self.count)
        )


class Replay:
    """The latest ``capacity`` frames, overwritten in a ring."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.columns, self.size, self.cursor = capacity, {}, 0, 0

    def add(self, frames: Frames) -> None:
        count = len(frames["agent"])
        if not self.columns:
            self.columns = {name: np.zeros((self.capacity, *c.shape[1:]), c.dtype) for name, c in frames.items()}
        index = (self.cursor + np.arange(count)) % self.capacity
        for name, column in frames.items():
            self.columns[name][index] = column
        self.cursor, self.size = (self.cursor + count) % self.capacity, min(self.capacity, self.size + count)

    def sample(self, count: int, rng: np.random.Generator) -> Frames:
        index = rng.integers(0, self.size, count)
        return {name: column[index] for name, column in self.columns.items()}

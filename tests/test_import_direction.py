"""Imports run downwards only, so that each room can be read without those above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

LAYERS = (
    ("errors",),
    ("types", "trained"),
    ("backbone", "suite"),
    ("plugins", "engine"),
    ("policy", "suites", "testing", "runtime"),
    ("dysl",),
    ("baselines", "pruning", "artifacts"),
    ("method_assets", "reference", "joint"),
    ("methods",),
    ("devices", "data"),
    ("jobs",),
    ("analysis",),
    ("report",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A room imports rooms of lower layers, and itself; rooms of one layer do not know each other. The
package itself stands above all of them: it hands their names on, when asked."""

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
PLUGINS_AND_SIMULATORS = {
    "dyslctl_openvla_oft",
    "dyslctl_roboflamingo",
    "transformers",
    "libero",
    "calvin_env",
    "pybullet",
    "mujoco",
}
TORCH_FREE = (
    "dyslctl.trained",
    "dyslctl.dysl.continuity",
    "dyslctl.dysl.guidance",
    "dyslctl.dysl.calibration",
    "dyslctl.pruning.settings",
    "dyslctl.pruning.action_mode",
    "dyslctl.pruning.frames",
    "dyslctl.pruning.depth",
    "dyslctl.joint.importance",
)
HEAVY = {"torch", "scipy", "matplotlib", "safetensors", "huggingface_hub", "pyarrow", "h5py", "av"}

FILES = sorted((SOURCE / "dyslctl").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room(module: str) -> str:
    """The part of a module's name that stands in :data:`LAYERS`; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imports(path: Path, at_import_time: bool = False) -> Iterator[str]:
    """Names of the modules that ``path`` imports; of a package's own modules rather than of their contents."""
    tree = ast.parse(path.read_text())
    for node in _module_level(tree) if at_import_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def _module_level(node: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: no function bodies, no ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _module_level(child)


def loaded_by(module: str) -> set[str]:
    """Every module, ours or not, that importing ``module`` imports, directly or not."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        parts = name.split(".")
        todo += [".".join(parts[:n]) for n in range(1, len(parts)) if ".".join(parts[:n]) in MODULES]
        if name in MODULES:
            todo += imports(MODULES[name], at_import_time=True)
    return seen


def test_every_room_stands_in_the_table() -> None:
    assert {room(name) for name in MODULES} - {""} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module: str) -> None:
    upwards = [
        imported
        for imported in imports(MODULES[module])
        if imported.startswith("dyslctl.")
        and room(imported) != room(module)
        and LEVEL[room(imported)] >= LEVEL.get(room(module), len(LAYERS))
    ]
    assert upwards == [], f"{module} imports from a layer that is not below its own"


@pytest.mark.parametrize("module", MODULES)
def test_the_core_imports_no_plugin_and_no_simulator(module: str) -> None:
    assert {name.partition(".")[0] for name in imports(MODULES[module])} & PLUGINS_AND_SIMULATORS == set()


@pytest.mark.parametrize("module", ["dyslctl", "dyslctl.cli", "dyslctl.__main__"])
def test_the_shell_waits_for_nothing_heavy(module: str) -> None:
    assert {name.partition(".")[0] for name in loaded_by(module)} & HEAVY == set()


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "cli"])
def test_the_command_line_names_nothing_heavy_at_its_top(module: str) -> None:
    names = {name.partition(".")[0] for name in imports(MODULES[module], at_import_time=True)}
    assert names & HEAVY == set()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_state_machines_load_no_torch(module: str) -> None:
    assert "torch" not in {name.partition(".")[0] for name in loaded_by(module)}


def test_the_walker_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import os.path\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "class C:\n    import json\n"
        "def f():\n    from dyslctl import engine\n"
    )
    assert set(imports(path)) == {"typing", "os.path", "torch", "json", "dyslctl.engine"}
    assert set(imports(path, at_import_time=True)) == {"typing", "os.path", "json"}

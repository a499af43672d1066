"""What the expert can do: one generator of actions a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from dyslctl_calvin.expert.hand import CLOSED, OPEN, PITCH, YAW, Actions, Hand, nearest
from dyslctl_calvin.expert.scene import DOOR, DRAWER, Block, Scene

Skill = Callable[[Hand], Actions]

WIDEST = 0.05
"""Edges that the fingers close over, m: open they are 8 cm apart, and one of 5.6 leaves no room for errors."""
SAFE = 0.58
"""Height at which the hand passes over everything on the table, m."""
FRONT = -0.05
"""In front of the cabinet, y in m: behind it the hand may be between door and plank."""
LEAN = 0.5
"""How far the hand lies back in the cabinet, rad: upright, its palm hits the wall beside the opening."""
GLIDE_FROM, PUSH_SPEED = 0.09, 0.014
"""A push ends when the block has moved so far, m, with so much speed left, m an action; 0.1 m are asked for."""
DRAWER_HALF = 0.17
"""Blocks farther from the middle of the drawer than this would miss it, m."""
DOOR_WIDTH, HANDLE = 0.285, 0.14
"""Of the sliding door, and from its left end to its handle, m."""
PLANK_HALF = 0.26
"""From the middle of the cabinet to its walls, m."""
HOLDING = frozenset({"place_in_drawer", "place_in_slider", "stack_block"})
"""Tasks that begin with a block in the hand."""


def retreat(hand: Hand) -> Actions:
    """From wherever the last instruction left the hand to a height where it may travel."""
    scene = hand.scene
    if scene.target[1] > FRONT and scene.target[2] < 0.66:  # in the cabinet, or at a handle of it
        yield from hand.by(y=-0.04, steps=8)
        yield from hand.by(y=min(0.0, FRONT - 0.06 - float(scene.target[1])), z=0.03, steps=20)
    if scene.target[2] < 0.42:  # at the drawer's handle
        yield from hand.by(y=-0.05, steps=8)
    yield from hand.go(_at(scene.target, z=max(SAFE, float(scene.target[2]))), pitch=PITCH, steps=40, within=0.02)


def press_button(hand: Hand) -> Actions:
    """The LED's."""
    hand.fingers = CLOSED
    x, y = hand.scene.link("button_link")[:2]
    yield from hand.go(np.array([x, y, SAFE]), yaw=YAW)
    yield from hand.go(np.array([x, y, 0.52]))
    yield from hand.go(np.array([x, y, 0.455]), speed=0.008, steps=40)
    yield from hand.go(np.array([x, y, 0.54]), steps=20)


def switch_up(hand: Hand) -> Actions:
    """From below, with the hand tilted back."""
    hand.fingers = CLOSED
    x, up = hand.scene.link("switch_link")[0], hand.scene.switch
    yield from hand.go(np.array([x, -0.16, 0.56]), yaw=YAW, pitch=-1.1)
    yield from hand.go(np.array([x, -0.10, 0.475 + up]), pitch=-1.1, steps=30)
    yield from hand.go(np.array([x, 0.03, 0.475 + up]), pitch=-1.1, speed=0.01, steps=40)
    yield from hand.go(np.array([x, 0.03, 0.635]), pitch=-1.1, speed=0.008, steps=60)


def switch_down(hand: Hand) -> Actions:
    """From above, with the hand tilted back."""
    hand.fingers = CLOSED
    x = hand.scene.link("switch_link")[0]
    yield from hand.go(np.array([x - 0.02, -0.16, 0.60]), yaw=YAW, pitch=-0.8)
    yield from hand.go(np.array([x, -0.06, 0.655]), pitch=-0.8, steps=40)
    yield from hand.go(np.array([x, 0.06, 0.655]), pitch=-0.8, speed=0.01, steps=40)
    yield from hand.go(np.array([x, 0.01, 0.545]), pitch=-0.8, speed=0.008, steps=60)


def open_drawer(hand: Hand) -> Actions:
    """Behind the handle, and pull."""
    hand.fingers = CLOSED
    x, y = hand.scene.link("drawer_link")[0], -0.21 - hand.scene.joint(DRAWER)
    yield from hand.go(np.array([x, min(-0.29, y - 0.03), 0.56]), yaw=YAW)
    yield from hand.go(np.array([x, y, 0.50]))
    yield from hand.go(np.array([x, y, 0.372]), speed=0.01, steps=60)
    yield from hand.go(np.array([x, y - 0.22, 0.372]), speed=0.01, steps=60)


def close_drawer(hand: Hand) -> Actions:
    """In front of the handle, and push."""
    hand.fingers = CLOSED
    x, y = hand.scene.link("drawer_link")[0], -0.33 - hand.scene.joint(DRAWER)
    yield from hand.go(np.array([x, min(-0.29, y), 0.58]), yaw=YAW)
    yield from hand.go(np.array([x, y, 0.50]))
    yield from hand.go(np.array([x, y, 0.365]), speed=0.01, steps=60)
    yield from hand.go(np.array([x, y + 0.30, 0.365]), speed=0.01, steps=80)


def move_slider(hand: Hand, side: int) -> Actions:
    """Beside the handle of the sliding door, and push to ``side``: -1 left, 1 right."""
    hand.fingers = CLOSED
    handle = hand.scene.link("slide_link")[0] + HANDLE
    x = handle - side * 0.09
    yield from hand.go(np.array([x, -0.20, 0.60]), yaw=YAW)
    yield from hand.go(np.array([x, -0.01, 0.54]), speed=0.015)
    yield from hand.go(np.array([x + side * 0.40, -0.01, 0.54]), speed=0.016, steps=45)


def grasp(hand: Hand, block: Block, *, above: float = 0.10, lean: float = 0.0) -> Actions:
    """Open, come along the hand's own axis from ``above`` (m), close. ``lean`` (rad): how far the hand lies back."""
    hand.fingers = OPEN
    yaw = grasp_yaw(block)
    back = np.array([-np.cos(yaw) * np.sin(lean), -np.sin(yaw) * np.sin(lean), np.cos(lean)])
    point = block.position - np.array([0, 0, 0.002])
    yield from hand.go(point + above * back, yaw=yaw, pitch=PITCH - lean)
    yield from hand.go(point, yaw=yaw, pitch=PITCH - lean, speed=0.01, within=0.004, steps=30)
    yield from hand.hold(8, CLOSED)


def lift(hand: Hand, colour: str) -> Actions:
    """Grasp and lift, from the table or out of the drawer."""
    yield from grasp(hand, hand.scene.block(colour))
    yield from hand.by(z=0.13, speed=0.01, steps=20)


def lift_from_slider(hand: Hand, colour: str) -> Actions:
    """Out of the open half of the cabinet. A door that does not stand quite aside is pushed there first."""
    scene, block = hand.scene, hand.scene.block(colour)
    side = 1 if block.position[0] < scene.link("plank_link")[0] else -1
    if abs(scene.joint(DOOR) - scene.door_end(side)) > 0.03:
        yield from move_slider(hand, side)
        yield from retreat(hand)
    hand.fingers = OPEN
    yield from hand.go(np.array([block.position[0], -0.16, 0.56]), yaw=grasp_yaw(block), pitch=PITCH - LEAN)
    yield from grasp(hand, block, lean=LEAN)
    yield from hand.by(z=0.015, speed=0.005, steps=5)
    yield from hand.by(y=-0.05, z=0.06, speed=0.01, steps=20)


def rotate(hand: Hand, colour: str, angle: float) -> Actions:
    """Grasp, lift a little, turn by ``angle`` (rad), and let it fall: once it lies there the hand is off it."""
    yield from grasp(hand, hand.scene.block(colour))
    yield from hand.by(z=0.012, steps=10)
    yield from hand.turn(float(hand.scene.target_angles[2]) + angle)
    yield from hand.hold(10, OPEN)


def push(hand: Hand, colour: str, side: int) -> Actions:
    """Beside the block, and push to ``side``: -1 left, 1 right. It glides the last bit, with the hand off it."""
    hand.fingers = CLOSED
    block = hand.scene.block(colour)
    x, y, _ = block.position
    beside = x - side * (block.extent[0] + 0.045)
    yield from hand.go(np.array([beside, y, 0.56]), yaw=YAW)
    yield from hand.go(np.array([beside, y, 0.465]), speed=0.01, steps=60)

    def nearly_there() -> bool:
        return bool(side * (hand.scene.block(colour).position[0] - x) > GLIDE_FROM)

    yield from hand.go(np.array([beside + side * 0.24, y, 0.465]), speed=PUSH_SPEED, steps=60, until=nearly_there)
    yield from hand.go(np.array([hand.scene.hand[0] - side * 0.05, y, 0.465]), steps=6)


def place_in_drawer(hand: Hand) -> Actions:
    """Over the drawer, down, and let go."""
    x, y = hand.scene.link("drawer_link")[0] - 0.02, -0.05 - hand.scene.joint(DRAWER)
    yield from hand.go(np.array([x, y + 0.02, SAFE]), speed=0.015, steps=80)
    yield from hand.go(np.array([x, y, 0.44]), speed=0.01, steps=60)
    yield from hand.hold(12, OPEN)


def place_in_slider(hand: Hand) -> Actions:
    """Through the open half of the cabinet, onto a free place of the plank, and let go."""
    x = free_place(hand.scene)
    yield from hand.go(np.array([x, -0.12, 0.60]), pitch=PITCH - LEAN, speed=0.015, steps=80)
    yield from hand.go(np.array([x, 0.03, 0.54]), speed=0.01, steps=60)
    yield from hand.go(np.array([x, 0.07, 0.48]), speed=0.01, steps=60)
    yield from hand.hold(12, OPEN)


def free_place(scene: Scene) -> float:
    """X (m) of the place on the plank that is farthest from other blocks, in the half that the door leaves open."""
    plank, door = scene.link("plank_link")[0], scene.link("slide_link")[0]
    on_left = door + DOOR_WIDTH / 2 > plank
    low, high = (plank - PLANK_HALF, door) if on_left else (door + DOOR_WIDTH, plank + PLANK_HALF)
    held = scene.held()
    others = [b.position[0] for b in scene.blocks if b.position[1] > FRONT and (held is None or b.body != held.body)]

    def worth(x: float) -> tuple[float, float]:
        """Room first, as far as it matters; then the middle of the opening."""
        return min([0.12, *(round(abs(x - other), 3) for other in others)]), -abs(x - (low + high) / 2)

    return float(max(np.linspace(low + 0.06, high - 0.06, 15), key=worth))


def stack(hand: Hand) -> Actions:
    """Over the block on the table, turned as that is, down, and let go."""
    scene = hand.scene
    held = scene.held()
    on_table = (b for b in scene.blocks if scene.touches(b, "base_link"))
    base = next((b for b in on_table if held is None or b.body != held.body), None)
    if held is None or base is None:
        yield from hand.hold(1, CLOSED)
        return
    yaw = nearest(float(scene.target_angles[2]) + base.flat[0][0] - held.flat[0][0], YAW)
    yield from hand.go(_at(scene.target, z=0.60), steps=20)
    yield from hand.go(_at(base.position, z=0.60), yaw=yaw, speed=0.015, steps=80)
    held = scene.block(held.name.removeprefix("block_"))
    over = base.position + scene.hand - held.position  # it may have slipped
    over[2] += base.height / 2 + held.extent[2] + 0.003
    yield from hand.go(_at(over, z=over[2] + 0.03), speed=0.01, steps=60)
    yield from hand.go(over, speed=0.005, within=0.004, steps=40)
    yield from hand.hold(10, OPEN)
    yield from hand.by(z=0.08, speed=0.008, steps=30)


def unstack(hand: Hand) -> Actions:
    """Push the upper block off, slowly, so that it comes to lie on the table."""
    scene = hand.scene
    top = scene.stacked()
    if top is None:
        yield from hand.hold(1, OPEN)
        return
    hand.fingers = CLOSED
    x, y, z = top.position
    side = -1 if x > 0.14 else 1
    x -= side * (top.extent[0] + 0.05)
    yield from hand.go(np.array([x, y, SAFE]), yaw=YAW)
    yield from hand.go(np.array([x, y, z + 0.005]), speed=0.01, steps=60)
    yield from hand.go(np.array([x + side * 0.16, y, z + 0.005]), speed=0.004, steps=60)


def push_into_drawer(hand: Hand) -> Actions:
    """Behind the block on the table, and push it over the edge."""
    scene = hand.scene
    block = next((block for block in scene.blocks if scene.touches(block, "base_link")), None)
    if block is None:
        yield from hand.hold(1, OPEN)
        return
    drawer = scene.link("drawer_link")[0]
    if abs(block.position[0] - drawer) > DRAWER_HALF:
        yield from bring(hand, block, drawer + DRAWER_HALF * 0.8 * np.sign(block.position[0] - drawer))
        block = next(other for other in scene.blocks if other.body == block.body)
    hand.fingers = CLOSED
    x, y, _ = block.position
    y += block.extent[1] + 0.03
    yield from hand.go(np.array([x, y, SAFE]), yaw=YAW)
    yield from hand.go(np.array([x, y, 0.465]), speed=0.01, steps=60)
    yield from hand.go(np.array([x, y - 0.20, 0.465]), speed=0.01, steps=60)
    yield from hand.by(z=0.06, steps=20)


def bring(hand: Hand, block: Block, x: float) -> Actions:
    """Set ``block`` down on the table at another ``x`` (m)."""
    yield from grasp(hand, block)
    yield from hand.by(z=0.03, speed=0.01, steps=10)
    yield from hand.by(x=x - block.position[0], speed=0.01, steps=40)
    yield from hand.by(z=-0.028, speed=0.01, steps=10)
    yield from hand.hold(8, OPEN)
    yield from retreat(hand)


def grasp_yaw(block: Block) -> float:
    """Of a hand whose fingers close over a side they can hold, turned as little as possible from :data:`YAW`."""
    yaws = [nearest(angle - np.pi / 2, YAW) for angle, edge in block.flat if edge < WIDEST]
    return min(yaws, key=lambda yaw: abs(yaw - YAW))


def _at(point: np.ndarray, z: float) -> np.ndarray:
    return np.array([point[0], point[1], z])


SKILLS: dict[str, Skill] = {
    "turn_on_led": press_button,
    "turn_off_led": press_button,
    "turn_on_lightbulb": switch_up,
    "turn_off_lightbulb": switch_down,
    "open_drawer": open_drawer,
    "close_drawer": close_drawer,
    "move_slider_left": partial(move_slider, side=-1),
    "move_slider_right": partial(move_slider, side=1),
    "place_in_drawer": place_in_drawer,
    "place_in_slider": place_in_slider,
    "stack_block": stack,
    "unstack_block": unstack,
    "push_into_drawer": push_into_drawer,
}
for _colour in ("red", "blue", "pink"):
    SKILLS[f"lift_{_colour}_block_slider"] = partial(lift_from_slider, colour=_colour)
    for _place in ("table", "drawer"):
        SKILLS[f"lift_{_colour}_block_{_place}"] = partial(lift, colour=_colour)
    for _name, _side in (("left", -1), ("right", 1)):
        SKILLS[f"push_{_colour}_block_{_name}"] = partial(push, colour=_colour, side=_side)
        SKILLS[f"rotate_{_colour}_block_{_name}"] = partial(rotate, colour=_colour, angle=-_side * 1.3)

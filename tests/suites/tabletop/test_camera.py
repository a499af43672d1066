from __future__ import annotations

import numpy as np

from dyslctl.suites.tabletop.camera import AGENT_LOOK_AT, agent_rays, project_agent, project_wrist


def test_the_agent_camera_centres_what_it_looks_at() -> None:
    np.testing.assert_allclose(project_agent(AGENT_LOOK_AT), [0.5, 0.5], atol=1e-6)


def test_left_and_far_and_high_on_the_agent_image() -> None:
    left, right, near, far, high = project_agent(
        np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, -0.5, 0], [0, 0.5, 0], [0, 0, 0.5]])
    )
    middle = project_agent(np.zeros(3))
    assert left[0] < 0.5 < right[0] and left[0] + right[0] == np.float32(1.0)
    assert far[1] < middle[1] < near[1]
    assert high[1] < middle[1]


def test_rays_and_projection_are_inverse() -> None:
    size, row, column, z = 56, 30, 12, 0.14
    change = agent_rays(size)[row, column]
    xy = np.array([0.0, -1.35]) + change * (z - 2.25)
    pixel = project_agent(np.append(xy, z)) * size
    np.testing.assert_allclose(pixel, [column + 0.5, row + 0.5], atol=1e-3)


def test_the_wrist_camera_by_hand() -> None:
    # Gripper 0.05 above the table: the camera is at 0.5 and sees 0.25 to each side.
    gripper = np.array([[0.2, -0.1, 0.05]])
    points = np.array([[[0.2, -0.1, 0.0], [0.45, -0.1, 0.0], [0.2, 0.025, 0.0]]])
    np.testing.assert_allclose(
        project_wrist(gripper, np.zeros(1), points)[0], [[0.5, 0.5], [1.0, 0.5], [0.5, 0.25]], atol=1e-6
    )
    # A quarter turn to the left: what was ahead is now to the right.
    turned = project_wrist(gripper, np.array([np.pi / 2]), points)[0]
    np.testing.assert_allclose(turned, [[0.5, 0.5], [0.5, 1.0], [0.75, 0.5]], atol=1e-6)

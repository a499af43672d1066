"""LIBERO as dyslctl task suites, on the real simulator.

``tasks`` holds what there is to do and where episodes begin, ``settings``, ``assets`` and ``installation`` how the
simulator is found, ``simulator``, ``initial_states`` and ``snapshot`` one scene, ``golden`` the picture it must show,
``expert`` the demonstrator, and ``suite`` what the rest of the tool sees.
"""

from dyslctl_libero.suite import Libero10, LiberoGoal, LiberoObject, LiberoSpatial

__all__ = ["Libero10", "LiberoGoal", "LiberoObject", "LiberoSpatial"]

"""CALVIN as dyslctl task suites, on the real simulator.

``tasks`` holds what there is to do, ``sequences`` the chains, ``initial_states`` and ``fnv`` where they begin;
``settings`` and ``installation`` how the simulator is found, ``simulator`` and ``snapshot`` one scene and its pictures,
``expert`` the demonstrator, and ``suite`` what the rest of the tool sees.
"""

from dyslctl_calvin.suite import CalvinABC, CalvinD, CalvinDFixtures

__all__ = ["CalvinABC", "CalvinD", "CalvinDFixtures"]

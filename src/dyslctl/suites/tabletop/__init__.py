"""The built-in task suites: pick up blocks and place them in bins, told in words, seen by two small cameras.

``geometry`` holds the measures, ``tasks`` the words, ``layout`` the initial states, ``world`` the rules, ``scene``,
``camera`` and ``render`` the pictures, ``expert`` the demonstrator, and ``suite`` what the rest of the tool sees.
"""

from dyslctl.suites.tabletop.suite import TabletopChain, TabletopObject, TabletopSpatial

__all__ = ["TabletopChain", "TabletopObject", "TabletopSpatial"]

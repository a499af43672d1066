"""Studies of the papers' figures (DySL-VLA: 1, 3, 4, 6, 8, 10; SpecPrune-VLA: 2, 14), one a file.

They return data; ``report`` draws it.
"""

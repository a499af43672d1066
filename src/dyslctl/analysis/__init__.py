"""The paper's studies (Fig. 1, 3, 4, 6, 8, 10), one a file. They return data; ``report`` draws it."""

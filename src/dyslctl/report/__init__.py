"""Results for people: the same rows as a terminal table, Markdown and HTML, and the figures beside them."""

"""``scenewise app``: a page on which a click shows what a pixel attends to."""

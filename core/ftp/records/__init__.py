"""The files of a run: written and read without following links, and checked by the schemas of what is in them."""

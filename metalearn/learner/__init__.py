"""A trained backbone used on pictures of one's own: `load` a run, `fit`, `predict`."""

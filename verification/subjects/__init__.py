"""The algorithms that claims are put to, and the bugs planted in them."""

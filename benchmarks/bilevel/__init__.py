"""Single-loop methods on the problems of the public bilevel benchmark."""

"""`perdure data inspect`: what the data stage made, and what it dropped, in the terminal and as a page."""

"""`perdure data inspect`: what the data stage made of every source."""

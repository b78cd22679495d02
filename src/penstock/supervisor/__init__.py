"""The process that looks after the workers: it starts, reloads, recycles and stops them."""

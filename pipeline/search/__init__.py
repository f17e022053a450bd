"""Many runs of one recipe: a grid of them, or a search for what fits each device.

``sweep`` runs every trial of a grid, ``fit`` looks for the best trial a target has room for.
What is to be tried next is decided by a *feed*, where it is tried by an *engine*; either
knows nothing of the other. A trial is an ordinary run in a folder of its own.
"""

"""How figures of a file are obtained: read, planned, predicted, measured, judged."""

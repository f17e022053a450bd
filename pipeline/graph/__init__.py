"""The network as a graph: trace, channels, coupling, surgery, counting, equivalence."""

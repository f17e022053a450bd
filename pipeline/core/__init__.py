"""The nouns that travel: recipe, target, budget, artifact, measure. No engine is imported."""

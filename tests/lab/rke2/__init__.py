"""A double of RKE2 for the lab: behaves as the real one does for whoever operates it."""

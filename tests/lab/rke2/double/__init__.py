"""The program that stands where RKE2 would; runs on the node's own Python."""

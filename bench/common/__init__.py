"""What all benchmarks share: figures with bounds, the document that keeps them, the command."""

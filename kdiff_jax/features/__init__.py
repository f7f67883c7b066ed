"""Networks whose features are compared: classifiers with fixed weights, and LPIPS."""

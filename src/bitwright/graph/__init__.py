"""The network as a graph: capture, rewrite, run piecewise, observe, stitch."""

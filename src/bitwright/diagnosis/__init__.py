"""Why a quantised network loses accuracy: symptoms on a few samples, judged by a fixed tree."""

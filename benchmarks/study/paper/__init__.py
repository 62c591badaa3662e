"""The paper's study repeated: arXiv 2006.10518, its tables and figures on networks that we hold."""

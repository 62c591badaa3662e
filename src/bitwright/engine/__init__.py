"""Store, jobs, cluster, memory, progress, files: nothing here knows of quantisation."""

"""The cache of user vectors: a policy, a tier in each worker's memory, and a tier in Redis that servers share."""

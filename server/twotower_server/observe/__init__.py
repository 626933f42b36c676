"""What operators see of a server: counters, stages of calls, log fields, traces. The lowest layer: all may use it."""

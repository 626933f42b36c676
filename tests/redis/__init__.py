"""Tests with the real Redis, 7 or newer, and the fixtures that start it for every folder of tests.

In a test of any folder (`tests/conftest.py` loads them):

    redis_server         an empty server of its own: `.url`, `.client`, `.kill()`, `.start()`, `.pause()`, `.resume()`
    start_redis          starts more, with lines of redis.conf: `start_redis(*APPEND_ALWAYS)`,
                         `start_redis(*LOGIN, user="app:secret")`, `start_redis(tls=True)`
    redis_cluster        an empty Cluster of 3 primaries with a replica each; shared by tests: do not stop its nodes
    start_redis_cluster  starts one that a test may break

The lines and the classes are in `running.py`. Everything ends with its test. `make test-python` brings the program, and
`make redis` brings it alone.
"""

"""Process life: the supervisor, its workers and the verifier.

The supervisor holds the port and the release's name, and keeps workers running. It never opens a release:

    supervisor ── verifier   once for each release and machine: niced, memory-limited, may die alone
             └─── worker     opens the verified release, serves; replaced when it dies
"""

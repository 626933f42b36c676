"""Live changes of the catalog: one numbered log, applied to every release that is loaded."""

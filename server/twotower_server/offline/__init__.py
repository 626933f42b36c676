"""Work on whole tables, beside the servers."""

"""The index: the items most similar to a query vector, exactly or nearly, under exclusions and filters."""
